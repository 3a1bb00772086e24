"""Shows where the CPU of a token read goes: py-spy's samples of the service and of its floor (a bare server that does
the least work that such a read needs), by layer.

py-spy looks at the call stack of a running process; time in C, system calls included, counts for the Python function
that called it. A sample belongs to the innermost function of a file that is listed in LAYERS, so that a library's work
is attributed to its caller.
"""

import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import comparison, report, token_read, wrk
from benchmarks.comparison import FLOOR, SERVICE, Options
from benchmarks.deployment import NOBODY_REFUSED, deployed
from benchmarks.errors import BenchmarkError
from benchmarks.processes import ServerUnderTest
from benchmarks.report import Circumstances
from services.devstack import process

_SAMPLES_PER_SECOND: Final = 400
_GRACE_SECONDS: Final = 30.0
_OURS: Final = "services/user_management/"
LAYERS: Final[Mapping[str, tuple[str, ...]]] = {
    "HTTP protocol, sockets of callers": ("uvicorn/", f"{_OURS}http_protocol.py"),
    "driver, its pool, sockets of Postgres": ("asyncpg/", f"{_OURS}database.py"),
    "event loop": (f"{_OURS}main.py", "benchmarks/floor.py"),
    "vault": (f"{_OURS}security/encryption.py", f"{_OURS}services/vault_service.py"),
    "framework: routing, request, response": ("fastapi/", "starlette/"),
    "middleware": (f"{_OURS}middleware/", f"{_OURS}core/context.py"),
    "key, allowance": (f"{_OURS}auth/", f"{_OURS}rate_limiter/", f"{_OURS}security/signing.py"),
    "strict JSON, models": ("pydantic/", f"{_OURS}utils/", f"{_OURS}core/parsing.py", f"{_OURS}routers/json_route.py"),
    "the read itself": (_OURS, "benchmarks/token_read_floor.py"),
}
"""Layers, each with the beginnings of its files' paths; a file belongs to the first layer with a beginning that
fits."""
_LINE: Final = re.compile(r"(?P<stack>.+) (?P<samples>\d+)")
_FILE: Final = re.compile(r"\((?P<path>[^()]+):\d+\)$")


@dataclass(frozen=True, slots=True)
class Profile:
    """The CPU time of one server's requests, by layer."""

    name: str
    microseconds: Mapping[str, float]
    """CPU time per request in microseconds, by layer."""

    @property
    def total(self) -> float:
        """CPU time per request in microseconds."""
        return sum(self.microseconds.values())


def run(options: Options) -> bool:
    """Measure and print; return True, as there is no limit to keep. Raises BenchmarkError or DevstackError."""
    wrk.require()
    _require_py_spy()
    print(Circumstances.of("token_read_profile", options.seed).line(), flush=True)
    with deployed({"synchronous_commit": "off"}, NOBODY_REFUSED) as deployment:
        script, servers = token_read.prepare(deployment, options)
        with ExitStack() as stack:
            for server in servers:
                stack.enter_context(server)
            profiles = {server.name: _profile(server, script, options) for server in servers}
    print(_table(profiles[SERVICE], profiles[FLOOR]))
    return True


def _require_py_spy() -> str:
    found = shutil.which("py-spy")
    if found is None:
        raise BenchmarkError("py-spy is not installed: pip install py-spy (it needs the right to trace processes)")
    return found


def _profile(server: ServerUnderTest, script: Path, options: Options) -> Profile:
    wrk.run(wrk.Load(server.url, script, options.connections, comparison.WARM_UP_SECONDS))
    samples_path = script.with_name(f"{server.name}.samples")
    command = [
        *(_require_py_spy(), "record", "--rate", str(_SAMPLES_PER_SECOND), "--format", "raw"),
        *("--duration", str(options.seconds), "--output", str(samples_path), "--pid", str(server.child.pid)),
    ]
    spy = process.spawn(command, env={}, cwd=script.parent)
    measured = comparison.measure(server, wrk.Load(server.url, script, options.connections, options.seconds))
    if spy.wait(_GRACE_SECONDS) != 0:
        spy.stop(signal.SIGKILL, timeout=_GRACE_SECONDS)
        raise BenchmarkError(f"py-spy could not trace the {server.name}; an ordinary user may need root for it")
    per_request = 1e6 * measured.cpu_seconds / measured.load.requests
    counts = count_by_layer(samples_path.read_text().splitlines())
    return Profile(server.name, {layer: per_request * counts[layer] / counts.total() for layer in LAYERS})


def count_by_layer(lines: Iterable[str]) -> Counter[str]:
    """Count samples by layer. A line is `function (file:line);function (file:line) … samples`, the outermost function
    first. Samples without a function of any layer are left out: they come from threads other than the main one, which
    only wait. Raises BenchmarkError for a line of another form."""
    counts: Counter[str] = Counter()
    for line in lines:
        found = _LINE.fullmatch(line)
        if found is None:
            raise BenchmarkError(f"py-spy wrote a line of another form: {line[:80]}")
        layer = next(_layers(found["stack"].split(";")), None)
        if layer is not None:
            counts[layer] += int(found["samples"])
    return counts


def _layers(stack: list[str]) -> Iterator[str]:
    """Yield the layers of a call stack's functions, the innermost first."""
    for frame in reversed(stack):
        found = _FILE.search(frame)
        if found is not None:
            yield from (layer for layer, files in LAYERS.items() if found["path"].startswith(files))


def _table(service: Profile, floor: Profile) -> str:
    rows = [["CPU µs/request", service.name, floor.name]]
    rows += [[layer, f"{service.microseconds[layer]:.0f}", f"{floor.microseconds[layer]:.0f}"] for layer in LAYERS]
    rows.append(["all", f"{service.total:.0f}", f"{floor.total:.0f}"])
    return report.table(rows)
