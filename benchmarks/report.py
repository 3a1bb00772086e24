"""Reports what a run found: promises with figure and limit, as lines for a person and as JSON."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Self

from benchmarks.deployment import REPOSITORY
from services.devstack import process

IDLE_LOAD: Final = 1.0
"""Load average (1 minute) above which the machine is too busy for absolute timings."""


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 - not a password
    FAIL = "fail"
    NOT_JUDGED = "not judged"


@dataclass(frozen=True, slots=True)
class Promise:
    """One figure of a run with its limit and the verdict on it. `counts` are further figures, which have no limit."""

    id: str
    what: str
    """What is measured, with its unit."""
    figure: float
    limit: str
    """The limit as a person reads it, such as `>= 40`."""
    verdict: Verdict
    counts: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def at_least(
        cls,
        promise_id: str,
        what: str,
        figure: float,
        limit: float,
        *,
        judged: bool = True,
        counts: Mapping[str, float] | None = None,
    ) -> Self:
        """Make a promise that is kept when `figure` reaches `limit`; with `judged=False` it is not judged."""
        verdict = _verdict(kept=figure >= limit, judged=judged)
        return cls(promise_id, what, figure, f">= {limit:g}", verdict, counts or {})

    @classmethod
    def at_most(
        cls,
        promise_id: str,
        what: str,
        figure: float,
        limit: float,
        *,
        judged: bool = True,
        counts: Mapping[str, float] | None = None,
    ) -> Self:
        """Make a promise that is kept when `figure` does not exceed `limit`; with `judged=False` it is not judged."""
        verdict = _verdict(kept=figure <= limit, judged=judged)
        return cls(promise_id, what, figure, f"<= {limit:g}", verdict, counts or {})

    def line(self) -> str:
        """Return the promise as one line for a person."""
        return f"{self.verdict:<10}  {self.id:<52}  {self.figure:>8.2f} {self.what}, limit {self.limit}"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """The seed, code version, start time and load of the machine under which a run was made."""

    benchmark: str
    seed: int
    git: str
    """The commit, followed by `-dirty` when the files differ from it; `unknown` where git cannot tell."""
    started_at: str
    load_average: float
    """The load average of one minute, at the start."""

    @classmethod
    def of(cls, benchmark: str, seed: int) -> Self:
        """Record the circumstances of a run that begins now, on this machine."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(benchmark, seed, git_version(), now, round(os.getloadavg()[0], 2))

    @property
    def is_idle(self) -> bool:
        """Whether the machine was idle enough at the start for absolute timings to be judged."""
        return self.load_average <= IDLE_LOAD

    def line(self) -> str:
        """Return the circumstances as one line for a person."""
        judged = "" if self.is_idle else f" (above {IDLE_LOAD:g}: absolute timings are not judged)"
        return (
            f"{self.benchmark} · seed {self.seed} · {self.git} · {self.started_at} · load {self.load_average:g}{judged}"
        )


def git_version() -> str:
    """Return the commit of this repository, followed by `-dirty` when tracked files differ from it, or `unknown` where
    git cannot tell."""
    command = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    finished = process.run(command, env={"PATH": os.environ.get("PATH", os.defpath)})
    return finished.last_line if finished.returncode == 0 else "unknown"


def write_json(
    path: Path, circumstances: Circumstances, promises: Sequence[Promise], details: Mapping[str, Any]
) -> None:
    """Write the result file, a JSON object with `details` among its members, and create its parent folders where they
    are missing. Raises OSError."""
    document = {
        **asdict(circumstances),
        "passed": passed(promises),
        "promises": [asdict(promise) for promise in promises],
        **details,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2) + "\n")


def conclude(
    shown: str,
    promises: Sequence[Promise],
    circumstances: Circumstances,
    *,
    json_path: Path | None,
    details: Mapping[str, Any],
) -> bool:
    """Print the table `shown` and the promises, and write the result file if `json_path` is set.

    Returns whether every limit that was judged is kept. Raises OSError.
    """
    print(f"\n{shown}\n")
    for promise in promises:
        print(promise.line())
    if json_path:
        write_json(json_path, circumstances, promises, details)
    return passed(promises)


def passed(promises: Sequence[Promise]) -> bool:
    """Return whether every promise that was judged is kept."""
    return all(promise.verdict is not Verdict.FAIL for promise in promises)


def table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows as columns: the first row is the heading, the first column is aligned left, the others right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) if not column else cell.rjust(width) for column, (cell, width) in enumerate(cells))
        for cells in (list(zip(row, widths, strict=True)) for row in rows)
    )


def _verdict(*, kept: bool, judged: bool) -> Verdict:
    if not judged:
        return Verdict.NOT_JUDGED
    return Verdict.PASS if kept else Verdict.FAIL
