"""Runs the load generator wrk: writes its script, makes one bounded run, and parses what it measured.

wrk keeps every connection busy all the time (a closed loop), so its rate is what the server can do, and its latencies
are those at that rate.
"""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any, Final

from benchmarks.errors import BenchmarkError
from services.devstack import process

_GRACE_SECONDS: Final = 30.0
_MARK: Final = "result "
_COUNTS: Final = ("connect", "read", "write", "status", "timeout")
# One thread suffices, as wrk needs a small part of a core, and it makes one random sequence, given by the seed.
_SCRIPT: Final = Template("""\
local requests = {}

function init(arguments)
  math.randomseed($seed)
  for line in io.lines($lines) do
    requests[#requests + 1] = $request
  end
end

function request()
  return requests[math.random(#requests)]
end

function done(summary, latency, _)
  local errors = summary.errors
  io.write(string.format(
    '$mark{"requests": %d, "microseconds": %d, "p50": %d, "p99": %d, '
    .. '"connect": %d, "read": %d, "write": %d, "status": %d, "timeout": %d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.status, errors.timeout))
end
""")


@dataclass(frozen=True, slots=True)
class Posts:
    """POST requests that differ in their body."""

    path: str
    headers: Mapping[str, str]
    bodies: Sequence[str]

    @property
    def lines(self) -> Sequence[str]:
        """The bodies of the requests, one per line."""
        return self.bodies

    def lua(self) -> str:
        """Return the Lua code of the request whose body is `line`. Raises ValueError for a path or header that is not
        printable ASCII."""
        table = ", ".join(f"[{_literal(name)}] = {_literal(value)}" for name, value in self.headers.items())
        return f'wrk.format("POST", {_literal(self.path)}, {{{table}}}, line)'


@dataclass(frozen=True, slots=True)
class Gets:
    """GET requests that differ in their Authorization header."""

    path: str
    authorizations: Sequence[str]
    """Values of the Authorization header."""

    @property
    def lines(self) -> Sequence[str]:
        """The Authorization headers of the requests, one per line."""
        return self.authorizations

    def lua(self) -> str:
        """Return the Lua code of the request whose Authorization is `line`. Raises ValueError for a path that is not
        printable ASCII."""
        return f'wrk.format("GET", {_literal(self.path)}, {{["Authorization"] = line}})'


@dataclass(frozen=True, slots=True)
class Load:
    """What one run of wrk is to do."""

    url: str
    script: Path
    connections: int
    seconds: int


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one run of wrk measured."""

    requests: int
    """Answers that arrived whole, of any status."""
    seconds: float
    p50_milliseconds: float
    p99_milliseconds: float
    failures: int
    """Answers with a status of 400 or more, and connections, reads, writes and answers that failed."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds


def require() -> Path:
    """Return the path of the installed wrk. Raises BenchmarkError, naming the package, when there is none."""
    found = shutil.which("wrk")
    if found is None:
        raise BenchmarkError("wrk is not installed: apt-get install wrk (Debian, Ubuntu)")
    return Path(found)


def write_script(path: Path, requests: Posts | Gets, *, seed: int) -> None:
    """Write the Lua script, and beside it the values in which the requests differ.

    Each request is a random one of `requests`. Raises ValueError for a path or header that is not printable ASCII.
    """
    lines_path = path.with_suffix(".lines")
    lines_path.write_text("".join(f"{line}\n" for line in requests.lines))
    lines = _literal(str(lines_path))
    path.write_text(_SCRIPT.substitute(seed=seed, lines=lines, request=requests.lua(), mark=_MARK))


def run(load: Load) -> LoadResult:
    """Generate `load` with wrk. Raises BenchmarkError when wrk is not installed, fails, hangs, or gets no answer."""
    command: list[str | Path] = [
        *(require(), "--threads", "1", "--connections", str(load.connections)),
        *("--duration", f"{load.seconds}s", "--script", load.script, load.url),
    ]
    finished = process.run(command, env={"PATH": os.defpath}, timeout=load.seconds + _GRACE_SECONDS)
    if finished.returncode != 0:
        raise BenchmarkError(f"wrk ended with {process.describe_end(finished.returncode)}: {finished.last_line}")
    return parse(finished.output)


def parse(output: str) -> LoadResult:
    """Read our script's line in the output of wrk.

    Raises BenchmarkError when there is none, or when nothing was answered.
    """
    line = next((line for line in output.splitlines() if line.startswith(_MARK)), None)
    if line is None:
        raise BenchmarkError(f"wrk printed no result: {(output.strip().splitlines() or ['-'])[-1]}")
    fields: dict[str, Any] = json.loads(line.removeprefix(_MARK))
    failures = {name: fields[name] for name in _COUNTS if fields[name]}
    if not fields["requests"]:
        raise BenchmarkError(f"wrk got no answer: {failures or 'no error either'}")
    return LoadResult(
        requests=fields["requests"],
        seconds=fields["microseconds"] / 1e6,
        p50_milliseconds=fields["p50"] / 1e3,
        p99_milliseconds=fields["p99"] / 1e3,
        failures=sum(failures.values()),
    )


def _literal(text: str) -> str:
    """Return a Lua string literal; for printable ASCII its escapes are those of JSON. Raises ValueError for other
    text."""
    if not (text.isascii() and text.isprintable()):
        raise ValueError("only printable ASCII goes into a script")
    return json.dumps(text)
