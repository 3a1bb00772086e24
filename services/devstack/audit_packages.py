"""Check of the pinned packages for known vulnerabilities, by pip-audit: `python -m services.devstack.audit_packages`.

It ends in one of three ways: nothing was found (exit 0); something was found, the index lacks a package, or pip-audit
does not run (1); or the vulnerability service cannot be asked (0, and "not judged" is printed), because `./test` has to
work without a network.

pip-audit itself does not tell the last case from the first: for packages that its service does not know, it prints "No
known vulnerabilities found" and exits 0, and it says the same behind a mirror that serves packages and nothing else. So
the check first asks it about a release that is known to be vulnerable.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from services.devstack.bootstrap import REPOSITORY, REQUIREMENTS

CANARY: Final = "urllib3==1.24.1"
"""A release with CVE-2019-11324 and many later ones. pip-audit is asked about it; it is never installed."""
SECONDS_PER_REQUEST: Final = 15
SECONDS: Final = 300
_OF_THE_NETWORK: Final = re.compile(r"requests\.exceptions\.|_service\.interface\.|your network may be blocking")
"""Pattern of pip-audit's errors when it could not reach the service: exceptions of `requests` and of pip-audit itself,
and its advice."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A vulnerability that the check ignores up to and including the day `until`; after that it fails the check
    again."""

    identifier: str
    reason: str
    until: date


ACCEPTED: Final[tuple[Accepted, ...]] = ()


class Outcome(StrEnum):
    CLEAN = "nothing known against them"
    FAILED = "failed"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Result of the check. `lines` are what was found, or why pip-audit could not tell; none if the outcome is
    `CLEAN`."""

    outcome: Outcome
    lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Answer:
    """Report and error output of pip-audit; `dependencies` is None if it wrote no report."""

    dependencies: list[Mapping[str, Any]] | None
    errors: str = ""

    @classmethod
    def read(cls, output: str, errors: str) -> "Answer":
        """Read pip-audit's two streams, as it writes them with `--format json`."""
        try:
            report = json.loads(output)
        except ValueError:
            return cls(None, errors)
        return cls(report["dependencies"], errors)

    def without_report(self) -> Verdict | None:
        """Return None if there is a report; without one, the verdict `not judged` if the exceptions in pip-audit's
        error output show that the network is to blame, and otherwise `failed`."""
        if self.dependencies is not None:
            return None
        lines = self.errors.strip().splitlines() or ["it wrote nothing"]
        last_line = lines[-1].strip()[:300]
        if _OF_THE_NETWORK.search(self.errors):
            return Verdict(Outcome.NOT_JUDGED, [f"vulnerability service unreachable: {last_line}"])
        return Verdict(Outcome.FAILED, [f"pip-audit does not run: {last_line}"])


Audit = Callable[[Sequence[Path]], Answer]


def judge(audit: Audit, canary: Path, requirements: Sequence[Path], *, today: date) -> Verdict:
    """Return the verdict on the packages that `requirements` pin. `canary` is a requirements file with a release known
    to be vulnerable; if pip-audit finds nothing against it, the verdict is `not judged`."""
    asked = audit([canary])
    silent = asked.without_report() or _doubt(asked)
    if silent is not None:
        return silent
    answer = audit(requirements)
    lines = [*_found(answer, today), *_skipped(answer)]
    return answer.without_report() or Verdict(Outcome.FAILED if lines else Outcome.CLEAN, lines)


def _doubt(answer: Answer) -> Verdict | None:
    """Return the verdict `not judged` if nothing is reported against the canary, since every working vulnerability
    service knows its vulnerabilities; otherwise None."""
    if any(dependency.get("vulns") for dependency in answer.dependencies or ()):
        return None
    reason = next(iter(_skipped(answer)), f"it knows nothing against {CANARY}")
    return Verdict(Outcome.NOT_JUDGED, [f"vulnerability service unreachable: {reason}"])


def _found(answer: Answer, today: date) -> list[str]:
    accepted = {one.identifier for one in ACCEPTED if today <= one.until}
    return [
        f"{dependency['name']} {dependency['version']}: {vulnerability['id']}, fixed in "
        f"{', '.join(vulnerability['fix_versions']) or 'no release'}"
        for dependency in answer.dependencies or ()
        for vulnerability in dependency.get("vulns", ())
        if not accepted & {vulnerability["id"], *vulnerability["aliases"]}
    ]


def _skipped(answer: Answer) -> list[str]:
    """Return pip-audit's reasons for skipping packages. It skips a package that is missing from an index that has the
    others: the package was withdrawn, or is not the one that we believed it to be."""
    return [one["skip_reason"] for one in answer.dependencies or () if "skip_reason" in one]


def pip_audit(requirements: Sequence[Path]) -> Answer:
    """Ask pip-audit about exactly the pins of these files, without resolving or installing anything. If it takes
    longer than 300 seconds, return the answer for an unreachable network."""
    files = [argument for path in requirements for argument in ("--requirement", str(path))]
    options = ("--disable-pip", "--no-deps", "--format", "json", "--aliases", "on", "--progress-spinner", "off")
    command = [sys.executable, "-m", "pip_audit", *options, "--timeout", str(SECONDS_PER_REQUEST), *files]
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return Answer(None, f"requests.exceptions.Timeout: no answer within {SECONDS} s")
    return Answer.read(finished.stdout, finished.stderr)


def main() -> None:
    """Print the verdict on the pinned packages; exit with 1 if it is `failed`, otherwise with 0."""
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary.txt"
        canary.write_text(f"{CANARY}\n", encoding="utf-8")
        pinned = [REPOSITORY / name for name in REQUIREMENTS]
        verdict = judge(pip_audit, canary, pinned, today=datetime.now(UTC).date())
    print("\n".join([f"pinned packages: {verdict.outcome}", *(f"  {line}" for line in verdict.lines)]))
    sys.exit(verdict.outcome is Outcome.FAILED)


if __name__ == "__main__":
    main()
