"""The process that handles a webhook is killed before and after its commit: every event has its effect exactly once."""

import asyncio
import os
import random
import secrets
import signal
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx
import pytest

from services.devstack.replicas import Replica, parallel_replicas, successive_replicas
from services.user_management.core.failpoints import Failpoint
from services.user_management.tests.races.conftest import Fleet
from services.user_management.tests.races.webhook_sender import Attempt, Message, Sender, differences, lives

pytestmark = pytest.mark.serial

EVENT_IS_KEPT: Final = {
    Failpoint.WEBHOOK_STORED: False,
    Failpoint.WEBHOOK_APPLIED: False,
    Failpoint.WEBHOOK_COMMITTED: True,
}
"""The failpoints at which the tests of this file kill a process, and whether that leaves the event stored."""
NO_ANSWER: Final = {"ReadError", "RemoteProtocolError"}
"""The errors of a connection whose other end was killed after it had read the request."""
RANDOM_KILL_WITHIN: Final = 0.06
"""The longest time from sending to the kill, in seconds. Measured: the first event of a new process, while others
start, takes 40 ms (p90 66 ms)."""
MAX_DELIVERIES: Final = 5
IN_INBOX: Final = "SELECT count(*) FROM webhook_events WHERE message_id = $1"


@dataclass(frozen=True, slots=True)
class Kill:
    """How one process ends: at the `number`-th pass of `point` or, if `point` is None, `delay` seconds after the start
    of the `number`-th delivery to it."""

    point: Failpoint | None
    number: int
    delay: float

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment variables of the process."""
        armed = {} if self.point is None else {"FAILPOINT": f"{self.point}:kill:{self.number}"}
        return {"ENVIRONMENT": "test", **armed}


def planned(seed: int, points: list[Failpoint | None]) -> list[Kill]:
    """Plan one kill at each of `points`; `seed` determines their order, passes and delays."""
    chance = random.Random(seed)  # noqa: S311 - reproducible on purpose
    chance.shuffle(points)
    return [Kill(point, chance.choice((1, 2)), chance.uniform(0, RANDOM_KILL_WITHIN)) for point in points]


class Deliveries:
    """The deliveries of a sender to processes that are killed meanwhile."""

    def __init__(self, fleet: Fleet, sender: Sender, run: str) -> None:
        self._fleet = fleet
        self._sender = sender
        self._messages = lives(sender, run)
        self._pending: Message | None = None
        self._must_be_known: bool | None = None
        """Whether the pending message has to be a duplicate; None: the moment of the kill decides."""
        self.unanswered = 0

    async def until_killed(self, replica: Replica, kill: Kill) -> None:
        """Deliver the pending message, if any, and then new ones to `replica` until it has died as planned."""
        for number in range(1, MAX_DELIVERIES + 1):
            message = self._pending or next(self._messages)
            ends_now = kill.point is None and number == kill.number
            if ends_now:
                asyncio.get_running_loop().call_later(kill.delay, replica.child.send_signal, signal.SIGKILL)
            attempt = await self._deliver(replica.url, message, pid=replica.pid)
            if ends_now or attempt.status is None:
                break
        assert await replica.until_ended() == -signal.SIGKILL
        if kill.point is not None:
            assert attempt.error in NO_ANSWER, attempt
        if self._pending is not None:
            await self._judge_inbox(kill)

    async def at_the_survivor(self) -> None:
        """Deliver the pending message to a process that nobody kills, then all messages once more, as an operator may,
        and check that each of these is a duplicate."""
        url = self._fleet.stack.api_urls[0]
        if self._pending is not None:
            await self._deliver(url, self._pending)
        for message in self._sender.messages:
            assert (await self._sender.deliver(url, message)).duplicate is True

    async def _deliver(self, url: str, message: Message, *, pid: int | None = None) -> Attempt:
        attempt = await self._sender.deliver(url, message, pid=pid)
        if attempt.status is None:
            self.unanswered += 1
            self._pending = message
            return attempt
        assert attempt.applied is True
        if message is not self._pending:
            assert attempt.duplicate is False
        elif self._must_be_known is not None:
            assert attempt.duplicate is self._must_be_known
        self._pending = self._must_be_known = None
        return attempt

    async def _judge_inbox(self, kill: Kill) -> None:
        """Check whether the killed process has stored the pending event, before anybody delivers it again."""
        assert self._pending is not None
        is_kept = bool(await self._fleet.database.fetchval(IN_INBOX, self._pending.id))
        if kill.point is not None:
            assert is_kept is EVENT_IS_KEPT[kill.point], kill
        # After a kill at any moment a commit may still be on its way: what is not seen yet proves nothing.
        self._must_be_known = is_kept if kill.point is not None or is_kept else None


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=15, trust_env=False) as client:
        yield client


async def kill_repeatedly(
    fleet: Fleet, client: httpx.AsyncClient, folder: Path, points: list[Failpoint | None]
) -> None:
    """Kill one process at each of `points`; then check that each message has had its effect on the rows once."""
    seed = int(os.environ.get("SEED") or secrets.randbits(32))
    print(f"SEED={seed}, {len(points)} kills, ledger {folder}")  # noqa: T201 - a failure is repeated by it
    kills = planned(seed, points)
    secret = fleet.stack.environment["CLERK_WEBHOOK_SIGNING_SECRET"]
    sender = Sender(client, secret, folder / "ledger.jsonl")
    deliveries = Deliveries(fleet, sender, run=f"kill{seed}")
    replicas = successive_replicas(fleet.stack, client, folder / "web.log", [kill.environment for kill in kills])
    pids = set()

    async with aclosing(replicas):
        for kill in kills:
            replica = await anext(replicas)
            pids.add(replica.pid)
            await deliveries.until_killed(replica, kill)
    await deliveries.at_the_survivor()

    assert await differences(fleet.database, sender.messages) == []
    assert len(pids) == len(kills)
    assert deliveries.unanswered >= sum(kill.point is not None for kill in kills)


async def test_events_whose_handler_is_killed_have_one_effect_each(
    fleet: Fleet, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await kill_repeatedly(fleet, client, tmp_path, [*EVENT_IS_KEPT, *EVENT_IS_KEPT, None])


async def test_failpoint_outside_the_test_environment_kills_nobody(
    fleet: Fleet, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    environment = {"ENVIRONMENT": "development", "FAILPOINT": f"{Failpoint.WEBHOOK_STORED}:kill"}
    sender = Sender(client, fleet.stack.environment["CLERK_WEBHOOK_SIGNING_SECRET"], tmp_path / "ledger.jsonl")
    message = next(lives(sender, "development"))

    async with parallel_replicas(fleet.stack, client, tmp_path / "web.log", [environment]) as (replica,):
        attempt = await sender.deliver(replica.url, message, pid=replica.pid)
        returncode = replica.child.returncode

    assert (attempt.status, attempt.duplicate, returncode) == (200, False, None)


@pytest.mark.nightly
async def test_200_kills_of_the_handler_leave_one_effect_per_event(
    fleet: Fleet, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    await kill_repeatedly(fleet, client, tmp_path, [*EVENT_IS_KEPT] * 53 + [Failpoint.WEBHOOK_APPLIED] + [None] * 40)
