"""Tests that two processes of the API, and two workers, agree over one database: neither undoes, repeats or overlooks
what the other has done."""

import asyncio
import itertools
import signal
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from celery import Celery

from services.devstack.main_job import MainJob, Person, expect
from services.devstack.replicas import parallel_replicas, start
from services.devstack.stack import Stack
from services.user_management.celery_config import broker_url
from services.user_management.enums import JobName
from services.user_management.tests.clerk_history import Event, deleted, state_of, updated
from services.user_management.tests.races.conftest import Fleet, until
from services.user_management.tests.races.webhook_sender import Sender, differences, life

pytestmark = pytest.mark.serial

ROUNDS: Final = 10
SEEN_WITHIN: Final = 2.0
"""The seconds within which all processes see a change that one of them made; the documentation promises this."""
POLL_SECONDS: Final = 0.1
"""The pause between two requests of a user, who may send 100 a minute."""
OTHER_WAY: Final = {"id", "identities", "preferences"}
"""The members in which the states of two users differ after the same events."""
EFFECTS_OF_CREATION: Final = """
SELECT (SELECT count(*) FROM users WHERE id = $1), (SELECT count(*) FROM user_identities WHERE user_id = $1),
       (SELECT count(*) FROM user_preferences WHERE user_id = $1),
       (SELECT count(*) FROM audit_logs WHERE user_id = $1 AND action = 'user.created'),
       (SELECT count(*) FROM outbox_events WHERE subject = $1 AND event_type = 'user.created')
"""
KEYS: Final = """
SELECT k.id, k.revoked_at, k.expires_at IS NULL AS is_endless,
       k.expires_at BETWEEN now() + interval '55 minutes' AND now() + interval '1 hour' AS is_ending
FROM service_keys k JOIN service_clients c ON c.id = k.client_id WHERE c.name = $1
"""


@pytest.fixture
async def sender(fleet: Fleet, tmp_path: Path) -> AsyncIterator[Sender]:
    limits = httpx.Limits(max_connections=100)
    async with httpx.AsyncClient(timeout=30, trust_env=False, limits=limits) as client:
        yield Sender(client, fleet.stack.environment["CLERK_WEBHOOK_SIGNING_SECRET"], tmp_path / "ledger.jsonl")


@pytest.fixture(autouse=True)
def no_deadlock(fleet: Fleet) -> Any:
    """Check that Postgres has found no deadlock while the test ran."""
    log = fleet.stack.log_path("postgres")
    before = log.read_text(errors="replace").count("deadlock detected")
    yield
    assert log.read_text(errors="replace").count("deadlock detected") == before


async def test_event_delivered_50_times_to_both_at_once_has_one_effect(fleet: Fleet, sender: Sender) -> None:
    users = [f"user_copies{number}" for number in range(5)]
    messages = [sender.message(told, user_id) for user_id in users for told in life(user_id)]

    for message in messages:
        await asyncio.gather(
            *(sender.deliver(url, message) for url in fleet.stack.api_urls for _ in range(25)),
        )

    assert [Counter(attempt.duplicate for attempt in message.attempts) for message in messages] == [
        Counter({True: 49, False: 1})
    ] * 20
    assert await differences(fleet.database, messages) == []


Told = tuple[str, Event]
"""The user that an event is about, and the event."""


def _update_and_delete(first: str, _second: str) -> list[Told]:
    return [
        (first, updated(first, at=2, first_name="Augusta", email="ada@example.com")),
        (first, deleted(first, at=3)),
    ]


def _ban_and_unban(first: str, _second: str) -> list[Told]:
    return [
        (first, updated(first, at=2, email="ada@example.com", banned=True)),
        (first, updated(first, at=3, email="ada@example.com", banned=False)),
    ]


def _swapped_addresses(first: str, second: str) -> list[Told]:
    return [
        (first, updated(first, at=2, email="bob@example.com")),
        (second, updated(second, at=3, email="ada@example.com")),
    ]


def _before(first: str, second: str) -> list[Told]:
    return [
        (first, updated(first, at=1, email="ada@example.com")),
        (second, updated(second, at=1, email="bob@example.com")),
    ]


@pytest.mark.parametrize("pair", [_update_and_delete, _ban_and_unban, _swapped_addresses])
@pytest.mark.parametrize("is_known", [True, False], ids=["known", "new"])
async def test_opposite_events_at_both_at_once_end_as_one_after_the_other(
    fleet: Fleet, sender: Sender, pair: Callable[[str, str], list[Told]], *, is_known: bool
) -> None:
    here, there = fleet.stack.api_urls
    prefix = f"user_{pair.__name__.replace('_', '')}{is_known}"

    async def final_states(name: str, urls: tuple[str, str], *, step: int, at_once: bool) -> list[dict[str, Any]]:
        """Send the pair of events about two new users, whose ids contain `name`, to `urls`, in its order (`step` 1) or
        reversed (-1). Return the states of those users whom the events are about."""
        users = f"{prefix}{name}a", f"{prefix}{name}b"
        for user_id, told in _before(*users) if is_known else ():
            await sender.deliver(here, sender.message(told, user_id))
        messages = [sender.message(told, user_id) for user_id, told in pair(*users)][::step]
        if at_once:
            await asyncio.gather(*map(sender.deliver, urls, messages))
        else:
            for url, message in zip(urls, messages, strict=True):
                await sender.deliver(url, message)
        states = [await state_of(fleet.database, user_id) for user_id in sorted({one.subject for one in messages})]
        return [{name: value for name, value in state.items() if name not in OTHER_WAY} for state in states]

    expected = await final_states("sequential", (here, here), step=1, at_once=False)
    assert await final_states("reversed", (here, there), step=-1, at_once=False) == expected
    for number, step in itertools.product(range(ROUNDS), (1, -1)):
        urls = (here, there) if number % 2 else (there, here)
        assert await final_states(f"at{number}once{step}".replace("-", "m"), urls, step=step, at_once=True) == expected
    assert all(attempt.applied for message in sender.messages for attempt in message.attempts)


async def test_limit_of_one_user_is_exact_over_both(fleet: Fleet, sender: Sender, tmp_path: Path) -> None:
    ada = await fleet.jobs[0].sign_up("ada-limit@example.com")
    client = fleet.jobs[0].client
    # A limit per hour, so that it allows no further request while a slow machine runs the test.
    environments = [{"LIMITS_USER": "20/3600"}] * 2

    async with parallel_replicas(fleet.stack, client, tmp_path / "web.log", environments) as replicas:
        answers = await asyncio.gather(
            *(client.get(f"{replica.url}/users/me", headers=ada.headers) for _ in range(20) for replica in replicas)
        )

    assert Counter(answer.status_code for answer in answers) == {200: 20, 429: 20}


async def _suspend(fleet: Fleet, ada: Person) -> None:
    path = f"/admin/users/{ada.id}/suspend"
    expect(await fleet.jobs[0].client.post(path, headers=await fleet.admin(), json={"reason": "race"}), 200)


async def _delete_as_admin(fleet: Fleet, ada: Person) -> None:
    expect(await fleet.jobs[0].client.delete(f"/admin/users/{ada.id}", headers=await fleet.admin()), 200)


async def _delete_oneself(fleet: Fleet, ada: Person) -> None:
    expect(await fleet.jobs[0].client.delete("/users/me", headers=ada.headers), 200)


async def _ban(fleet: Fleet, ada: Person) -> None:
    # The sandbox tells the first process.
    told = expect(await fleet.jobs[0].browser.post(f"/clerk/_control/users/{ada.id}/ban"), 200).json()
    assert told["webhook_accepted"] is True


async def _delete_upstream(fleet: Fleet, ada: Person) -> None:
    told = expect(await fleet.jobs[0].browser.delete(f"/clerk/_control/users/{ada.id}"), 200).json()
    assert told["webhook_accepted"] is True


@pytest.mark.parametrize("end", [_suspend, _delete_as_admin, _delete_oneself, _ban, _delete_upstream])
async def test_user_who_is_ended_at_one_is_refused_there_at_once_and_by_the_other_in_two_seconds(
    fleet: Fleet, end: Callable[[Fleet, Person], Awaitable[None]]
) -> None:
    loop = asyncio.get_running_loop()
    here, there = (job.client for job in fleet.jobs)
    ada = await fleet.jobs[0].sign_up(f"ada-{end.__name__[1:]}@example.com")
    # Both processes remember the user, the second one as late as possible: while the change is made.
    expect(await here.get("/users/me", headers=ada.headers), 200)
    expect(await there.get("/users/me", headers=ada.headers), 200)
    _, late = await asyncio.gather(end(fleet, ada), there.get("/users/me", headers=ada.headers))
    ended_at = loop.time()

    at_once = await here.get("/users/me", headers=ada.headers)
    answers: list[tuple[float, str | None]] = []
    while loop.time() < ended_at + SEEN_WITHIN + 0.3:
        asked_at = loop.time() - ended_at
        answer = await there.get("/users/me", headers=ada.headers)
        answers.append((asked_at, answer.json().get("type")))
        await asyncio.sleep(POLL_SECONDS)

    assert late.status_code in {200, 403, 404}
    assert (at_once.status_code, at_once.json().get("type")) == (403, "user_inactive")
    assert [found for asked_at, found in answers if asked_at >= SEEN_WITHIN and found != "user_inactive"] == []
    assert answers[-1][0] >= SEEN_WITHIN
    # Once refused, refused for good.
    refusals = [found == "user_inactive" for _, found in answers]
    assert refusals == sorted(refusals)


async def _new_service(fleet: Fleet, name: str) -> str:
    body = {"name": name, "permissions": ["users:read"]}
    answer = await fleet.jobs[0].client.post("/admin/services", headers=await fleet.admin(), json=body)
    key: str = expect(answer, 201).json()["key"]
    return key


async def _statuses(client: httpx.AsyncClient, key: str) -> list[int]:
    """Return the statuses of two requests, one for each way in which a service key is looked up."""
    headers = {"Authorization": f"Bearer {key}"}
    wanted = {"user_id": "user_nobody", "provider": "sandbox-static"}
    token = await client.post("/internal/tokens/get", headers=headers, json=wanted)
    users = await client.post("/internal/users/batch-get", headers=headers, json={"user_ids": ["user_nobody"]})
    return [token.status_code, users.status_code]


@pytest.mark.parametrize("way", ["key", "disable", "revoke"])
async def test_service_key_that_ends_at_one_is_refused_by_the_very_next_call_at_the_other(
    fleet: Fleet, way: str
) -> None:
    here, there = (job.client for job in fleet.jobs)
    for number in range(3):
        name = f"ends-by-{way}-{number}"
        key = await _new_service(fleet, name)
        path = f"/admin/services/{name}"
        admin = await fleet.admin()
        before = await _statuses(there, key)

        if way == "key":
            ended = await here.delete(f"{path}/keys/{key.split('_')[1]}", headers=admin)
        else:
            ended = await here.post(f"{path}/{way}", headers=admin)
        expect(ended, 200, 204)
        after = await _statuses(there, key)

        assert (before, after) == ([403, 200], [401, 401])


async def test_patch_with_one_tag_at_both_at_once_succeeds_at_one(fleet: Fleet) -> None:
    ada = await fleet.jobs[0].sign_up("ada-patch@example.com")
    clients = [job.client for job in fleet.jobs]
    etag = expect(await clients[0].get("/users/me", headers=ada.headers), 200).headers["etag"]
    query = "SELECT version, first_name FROM users WHERE id = $1"

    for number in range(20):
        before = await fleet.database.fetchrow(query, ada.id)
        answers = await asyncio.gather(
            *(
                client.patch("/users/me", headers={**ada.headers, "If-Match": etag}, json={"first_name": name})
                for client, name in zip(clients, (f"Ada {number}", f"Bob {number}"), strict=True)
            )
        )
        after = await fleet.database.fetchrow(query, ada.id)

        assert sorted(answer.status_code for answer in answers) == [200, 412]
        (winner,) = (answer for answer in answers if answer.status_code == 200)
        assert before is not None
        assert after is not None
        assert (after["version"], after["first_name"]) == (before["version"] + 1, winner.json()["first_name"])
        etag = winner.headers["etag"]


async def test_user_first_seen_by_both_at_once_is_created_once(fleet: Fleet) -> None:
    for number in range(ROUNDS):
        user_id = f"user_lazy{number}"
        headers = await fleet.jobs[0].session(user_id)

        answers = await asyncio.gather(
            *(job.client.get("/users/me", headers=headers) for job in fleet.jobs for _ in range(3))
        )

        assert {answer.status_code for answer in answers} == {200}
        assert {answer.json()["id"] for answer in answers} == {user_id}
        assert tuple(await fleet.database.fetchrow(EFFECTS_OF_CREATION, user_id) or ()) == (1,) * 5


async def _rotate(job: MainJob, name: str, admin: dict[str, str]) -> str:
    body = {"overlap_seconds": 3600}
    answer = await job.client.post(f"/admin/services/{name}/keys", headers=admin, json=body)
    key: str = expect(answer, 201).json()["key"]
    return key


async def test_key_rotated_at_both_at_once_leaves_two_new_ones_and_one_without_an_end(fleet: Fleet) -> None:
    for number in range(ROUNDS):
        name = f"rotated-{number}"
        first = await _new_service(fleet, name)
        admin = await fleet.admin()

        new = await asyncio.gather(*(_rotate(job, name, admin) for job in fleet.jobs))

        keys = {row["id"]: row for row in await fleet.database.fetch(KEYS, name)}
        assert set(keys) == {key.split("_")[1] for key in (first, *new)}
        assert len(keys) == 3
        assert keys[first.split("_")[1]]["is_ending"]
        # The rotations run one after the other, and the second one also gives the first one's new key an end.
        assert sorted(keys[key.split("_")[1]]["is_endless"] for key in new) == [False, True]
        assert all(row["is_endless"] or row["is_ending"] for row in keys.values())
        assert not [row for row in keys.values() if row["revoked_at"]]
        for job, key in itertools.product(fleet.jobs, (first, *new)):
            assert await _statuses(job.client, key) == [403, 200]
        audited = "SELECT count(*) FROM audit_logs WHERE target_id = $1 AND action = 'service.key_rotated'"
        assert await fleet.database.fetchval(audited, name) == 2


class TwoWorkers:
    """The stack's worker and beat, a second worker and beat, and the logs of both workers."""

    def __init__(self, stack: Stack, log: Path) -> None:
        self._broker = broker_url(stack.environment["REDIS_URL"])
        self._logs = (stack.log_path("worker"), log)
        self._children = [start(stack, name, log, {}) for name in ("worker", "beat")]

    async def are_started(self) -> bool:
        text = self._logs[1].read_text(errors="replace")
        return "worker.started" in text and "beat.started" in text

    async def stop(self) -> None:
        """End the second worker and beat in an orderly way: otherwise a slot under way would keep its lease."""
        await asyncio.gather(*(asyncio.to_thread(child.stop, signal.SIGTERM, timeout=10) for child in self._children))

    def logged(self, *words: str) -> int:
        """Count the log lines of both workers that hold all of `words`."""
        lines = itertools.chain.from_iterable(log.read_text(errors="replace").splitlines() for log in self._logs)
        return sum(all(word in line for word in words) for line in lines)

    def tick(self, job: JobName) -> None:
        """Send the job's task twenty times, as twenty beats would at the same moment."""
        with Celery(broker=self._broker, set_as_current=False) as broker:
            for _ in range(20):
                broker.send_task(job.value)


@pytest.fixture(scope="module")
async def workers(fleet_stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TwoWorkers]:
    workers = TwoWorkers(fleet_stack, tmp_path_factory.mktemp("second") / "worker.log")
    try:
        await until(workers.are_started)
        yield workers
    finally:
        await workers.stop()


async def _slots_passed(fleet: Fleet, count: int) -> None:
    """Wait until `count` slots of the webhook retries have begun and ended from now on. By then, the workers have taken
    all ticks that were sent before."""
    query = "SELECT count(*) FROM job_runs WHERE job = $1 AND started_at > $2 AND finished_at IS NOT NULL"
    now = await fleet.database.fetchval("SELECT now()")

    async def have_passed() -> bool:
        return bool(await fleet.database.fetchval(query, JobName.RETRY_WEBHOOKS.value, now) >= count)

    await until(have_passed)


@asynccontextmanager
async def _failing_users(fleet: Fleet) -> AsyncIterator[None]:
    """Within the block, make every insert of a user fail whose id begins with `user_failing`."""
    await fleet.database.execute(
        "ALTER TABLE users ADD CONSTRAINT fails CHECK (NOT starts_with(id, 'user_failing')) NOT VALID"
    )
    try:
        yield
    finally:
        await fleet.database.execute("ALTER TABLE users DROP CONSTRAINT fails")


async def _make_due(fleet: Fleet) -> None:
    await fleet.database.execute("UPDATE webhook_events SET next_attempt_at = now() WHERE applied_at IS NULL")


async def _attempts(fleet: Fleet) -> dict[str, int]:
    """Return the number of attempts of each failing event, by event id."""
    rows = await fleet.database.fetch(
        "SELECT id::text, attempts FROM webhook_events WHERE starts_with(subject, 'user_failing')"
    )
    return {row["id"]: row["attempts"] for row in rows}


async def test_failing_events_are_tried_once_per_due_time_by_two_workers(
    fleet: Fleet, sender: Sender, workers: TwoWorkers
) -> None:
    messages = [sender.message(life(f"user_failing{number}")[0], f"user_failing{number}") for number in range(20)]

    async def all_were_tried() -> bool:
        return min((await _attempts(fleet)).values()) >= 2

    async def all_are_applied() -> bool:
        waiting = "SELECT count(*) FROM webhook_events WHERE applied_at IS NULL"
        return bool(await fleet.database.fetchval(waiting) == 0)

    async with _failing_users(fleet):
        for message in messages:
            assert (await sender.deliver(fleet.stack.api_urls[0], message)).applied is False
        await _make_due(fleet)
        workers.tick(JobName.RETRY_WEBHOOKS)
        await until(all_were_tried)
        await _slots_passed(fleet, 2)
        attempts = await _attempts(fleet)
        tried = [workers.logged("webhook.failed", event_id) for event_id in attempts]
    await _make_due(fleet)
    workers.tick(JobName.RETRY_WEBHOOKS)
    await until(all_are_applied)

    assert (sorted(attempts.values()), tried) == ([2] * 20, [1] * 20)
    assert set((await _attempts(fleet)).values()) == {3}
    assert await differences(fleet.database, messages) == []


async def test_sweep_is_claimed_once_by_two_workers(fleet: Fleet, workers: TwoWorkers) -> None:
    drift = {"email": "ada-drift@example.com", "first_name": "Ada"}
    silent = await fleet.jobs[0].browser.post("/clerk/_control/users", params={"silent": True}, json=drift)
    user_id = expect(silent, 201).json()["user"]["id"]
    this_slot = "job = 'reconcile_clerk' AND slot = date_bin('1 day', now(), 'epoch')"
    finished = workers.logged("reconcile.finished")

    async def is_finished() -> bool:
        done = f"SELECT count(*) FROM job_runs WHERE {this_slot} AND finished_at IS NOT NULL"  # noqa: S608 - ours
        return bool(await fleet.database.fetchval(done))

    await fleet.database.execute(f"DELETE FROM job_runs WHERE {this_slot}")  # noqa: S608 - our own words
    workers.tick(JobName.RECONCILE_CLERK)
    await until(is_finished)
    await _slots_passed(fleet, 2)

    runs = await fleet.database.fetch(f"SELECT attempts, error FROM job_runs WHERE {this_slot}")  # noqa: S608 - ours
    assert [tuple(run) for run in runs] == [(1, None)]
    assert workers.logged("reconcile.finished") == finished + 1
    assert tuple(await fleet.database.fetchrow(EFFECTS_OF_CREATION, user_id) or ()) == (1,) * 5
