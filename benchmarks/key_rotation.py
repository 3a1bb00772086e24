"""Rotates the vault's keys while tokens are read, kills the rotation half way and starts it again: no read may fail,
and the second rotation must finish."""

import base64
import json
import random
import secrets
import signal
import statistics
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from benchmarks import comparison, report
from benchmarks.deployment import NOBODY_REFUSED, Deployment, deployed
from benchmarks.errors import BenchmarkError
from benchmarks.report import Circumstances, Promise
from benchmarks.seeding import PROVIDER, SCOPE, seeded_users
from benchmarks.sequential import Caller, Request
from services.devstack import process
from services.devstack.child import Child

MAXIMUM_SECONDS: Final = 600.0
MAXIMUM_P99_RATIO: Final = 2.0
TOKENS_PER_USER: Final = 2
READERS: Final = 4
PAUSE_SECONDS: Final = 0.01
"""Pause of a reader between two reads: all readers together ask for about half of what one process can answer."""
POLL_SECONDS: Final = 0.1
PATIENCE_SECONDS: Final = 1200.0
CLI: Final = ("python", "-m", "services.user_management.cli", "keys")
_LEFT: Final = "SELECT count(*) FROM encrypted_tokens WHERE key_version = 1"


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run, from the command line."""

    tokens: int
    quiet_seconds: int
    seed: int
    json_path: Path | None


@dataclass(slots=True)
class Reads:
    """Latencies of the reads of one phase that got an answer, of any status, and the errors of those that got none or
    one other than 200."""

    milliseconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def p99_milliseconds(self) -> float:
        """The 99th percentile of the latencies. Raises BenchmarkError when fewer than 100 reads were answered."""
        if len(self.milliseconds) < 100:
            raise BenchmarkError(f"only {len(self.milliseconds)} reads were answered")
        return statistics.quantiles(self.milliseconds, n=100)[98]


@dataclass(frozen=True, slots=True)
class Rotation:
    """The figures of one rotation. `tokens`, `left_at_the_kill` and `left` count the tokens under the former key: at
    the start, after the kill, and at the end."""

    tokens: int
    left_at_the_kill: int
    left: int
    seconds: float
    """Time from the start of the first rotation process to the end of the second."""
    quiet: Reads
    during: Reads

    @property
    def ratio(self) -> float:
        """The p99 latency during the rotation, divided by the quiet one. Raises BenchmarkError, as p99_milliseconds
        does."""
        return self.during.p99_milliseconds / self.quiet.p99_milliseconds


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    circumstances = Circumstances.of("key_rotation", options.seed)
    print(circumstances.line(), flush=True)
    first, second = (base64.b64encode(secrets.token_bytes(32)).decode() for _ in range(2))
    with deployed({}, {**NOBODY_REFUSED, "ENCRYPTION_KEYS": json.dumps({"1": first})}) as deployment:
        users = max(1, options.tokens // TOKENS_PER_USER)
        print(f"seeding {users} users with {TOKENS_PER_USER} tokens each …", flush=True)
        seeded = deployment.run_python("-m", "benchmarks.seeding", "connected", str(users), str(options.seed))
        deployment.query("ANALYZE")
        both = {**deployment.environment, "ENCRYPTION_KEYS": json.dumps({"1": first, "2": second})}
        found = _rotate(replace(deployment, environment=both), options, _requests(users, seeded.last_line))
    details = {"options": {**asdict(options), "json_path": None}, "rotation": _summary(found)}
    promises = _promises(found, circumstances)
    return report.conclude(_table(found), promises, circumstances, json_path=options.json_path, details=details)


def _requests(users: int, key: str) -> list[Request]:
    return [
        Request(
            "POST",
            "/internal/tokens/get",
            f"Bearer {key}",
            json.dumps({"user_id": user.id, "provider": PROVIDER, "scopes": [SCOPE]}).encode(),
        )
        for user in seeded_users(users)
    ]


def _rotate(deployment: Deployment, options: Options, requests: list[Request]) -> Rotation:
    with comparison.web_server(deployment) as server:
        with _reading(server.url, requests, options.seed) as quiet:
            time.sleep(options.quiet_seconds)
        deployment.run_python(*CLI[1:], "activate", "2")
        before = int(deployment.query(_LEFT))
        print(f"rotating {before} tokens; killed half way and started again …", flush=True)
        started = time.monotonic()
        with _reading(server.url, requests, options.seed + 1) as during:
            left_at_the_kill = _kill_half_way(deployment, before)
            _until_ended(_start(deployment), "the second rotation")
            seconds = time.monotonic() - started
    left = int(deployment.query(_LEFT))
    return Rotation(before, left_at_the_kill, left, seconds, quiet, during)


def _start(deployment: Deployment) -> Child:
    with (deployment.folder / "rewrap.log").open("ab") as log:
        return process.spawn(
            [*CLI, "rewrap"],
            env=deployment.environment,
            cwd=deployment.folder,
            streams=process.Streams(stdout=log),
        )


def _kill_half_way(deployment: Deployment, before: int) -> int:
    """Start a rotation of the `before` tokens, kill it by SIGKILL when half are done, and return how many are left
    under the former key.

    Raises BenchmarkError when the rotation fails or does not get half way.
    """
    child = _start(deployment)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (left := int(deployment.query(_LEFT))) > before / 2:
        if child.returncode is not None or time.monotonic() > deadline:
            child.kill()
            raise BenchmarkError(f"the first rotation did not get half way: {left} tokens left")
        time.sleep(POLL_SECONDS)
    child.send_signal(signal.SIGKILL)
    _until_ended(child, "the first rotation", expected=-signal.SIGKILL)
    return int(deployment.query(_LEFT))


def _until_ended(child: Child, name: str, *, expected: int = 0) -> None:
    ended = child.wait(PATIENCE_SECONDS)
    # A small rotation may end before the signal arrives.
    if ended not in {0, expected}:
        raise BenchmarkError(f"{name} ended: {process.describe_end(ended)}")


@contextmanager
def _reading(url: str, requests: list[Request], seed: int) -> Iterator[Reads]:
    """Run readers for the length of the block, each on its own connection, and yield what they record.

    A reader sends one read after another, with a pause between them. A read without an answer, or with another status
    than 200, is recorded as a failure, and reading goes on.
    """
    reads, ended = Reads(), threading.Event()

    def read(number: int) -> None:
        chance = random.Random(seed * READERS + number)  # noqa: S311 - the same reads for the same seed
        with Caller(url) as caller:
            while not ended.wait(PAUSE_SECONDS):
                try:
                    answer = caller.call(chance.choice(requests))
                except BenchmarkError as error:
                    reads.failures.append(str(error))
                    caller.reconnect()
                    continue
                reads.milliseconds.append(answer.milliseconds)
                if answer.status != 200:
                    reads.failures.append(f"{answer.status}: {answer.body[:200].decode(errors='replace')}")

    threads = [threading.Thread(target=read, args=(number,)) for number in range(READERS)]
    for thread in threads:
        thread.start()
    try:
        yield reads
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def _promises(found: Rotation, circumstances: Circumstances) -> list[Promise]:
    name, idle = "key_rotation", circumstances.is_idle
    failed = len(found.quiet.failures) + len(found.during.failures)
    counts = {"reads": len(found.during.milliseconds), "tokens": found.tokens}
    return [
        Promise.at_most(f"{name}.failures", "failed reads", failed, 0, counts=counts),
        Promise.at_most(f"{name}.left", "tokens under the former key", found.left, 0, counts=counts),
        Promise.at_most(f"{name}.resumed", "tokens left by the killed one", found.left_at_the_kill, found.tokens - 1),
        Promise.at_most(f"{name}.duration", "s, kill included", found.seconds, MAXIMUM_SECONDS, judged=idle),
        Promise.at_most(f"{name}.ratio", "x the quiet p99", found.ratio, MAXIMUM_P99_RATIO, judged=idle),
    ]


def _summary(found: Rotation) -> Mapping[str, Any]:
    return {
        "tokens": found.tokens,
        "left_at_the_kill": found.left_at_the_kill,
        "left": found.left,
        "seconds": found.seconds,
        "reads": {"quiet": len(found.quiet.milliseconds), "during": len(found.during.milliseconds)},
        "p99_milliseconds": {"quiet": found.quiet.p99_milliseconds, "during": found.during.p99_milliseconds},
        "failures": [*found.quiet.failures, *found.during.failures][:20],
    }


def _table(found: Rotation) -> str:
    heading = ["", "reads", "failed", "p50 ms", "p99 ms"]
    rows = [
        [
            name,
            str(len(reads.milliseconds)),
            str(len(reads.failures)),
            f"{statistics.median(reads.milliseconds):.1f}",
            f"{reads.p99_milliseconds:.1f}",
        ]
        for name, reads in (("quiet", found.quiet), ("during the rotation", found.during))
    ]
    rate = (found.tokens - found.left) / found.seconds
    rotated = f"{found.tokens - found.left} tokens in {found.seconds:.1f} s ({rate:.0f}/s), starts and kill included"
    return f"{report.table([heading, *rows])}\n\n{rotated}"
