"""Tests of service keys: which routes for services and administrators they open, their rotation, and the record of
their last use."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from typing import Annotated

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.middleware import Middleware
from structlog.testing import capture_logs

from services.user_management.auth.admin import CurrentAdmin, admin_or_permitted
from services.user_management.auth.service_auth import CurrentService, permitted
from services.user_management.container import Container
from services.user_management.core.context import current_context
from services.user_management.core.principal import Principal
from services.user_management.enums import ServicePermission
from services.user_management.middleware.problems import HANDLERS
from services.user_management.middleware.request_context import RequestContextMiddleware
from services.user_management.observability import UNRECORDED_USES
from services.user_management.services import use_recorder
from services.user_management.services.service_client_service import ServiceClientService
from services.user_management.services.service_credentials import key_usage
from services.user_management.services.use_recorder import UseRecorder
from services.user_management.tests.actors import TESTER
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.conftest import ADMIN_USER_ID, API_URL
from services.user_management.tests.journey import Journey
from services.user_management.tests.rate_limits.allowances import value_of
from services.user_management.tests.scenes import Connected, Headers, assert_problem
from services.user_management.unit_of_work import UnitOfWork

UNKNOWN_KEY = f"ums_{'0' * 12}_{'0' * 64}"
READER = Annotated[Principal, Depends(permitted(ServicePermission.USERS_READ))]
SEARCHER = Annotated[Principal, Depends(admin_or_permitted(ServicePermission.USERS_SEARCH))]


def _doors(container: Container) -> FastAPI:
    """Build an application with one route (a door) for each FastAPI dependency by which our routes accept a service
    key."""
    app = FastAPI(
        exception_handlers=HANDLERS, middleware=[Middleware(RequestContextMiddleware, strict_transport=False)]
    )
    app.state.container = container

    @app.get("/service")
    async def service(caller: CurrentService) -> str:
        return f"{caller.kind} {caller.id} {current_context().actor.id}"

    @app.get("/read")
    async def read(caller: READER) -> str:
        return caller.id

    @app.get("/search")
    async def search(caller: SEARCHER) -> str:
        return caller.id

    @app.get("/admin")
    async def admin(caller: CurrentAdmin) -> str:
        return caller.id

    return app


DOORS = ("/service", "/read", "/search", "/admin")


@pytest.fixture
async def doors(container: Container, journey: Journey) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=_doors(container), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=API_URL) as http:
        yield http


@pytest.fixture
def services(container: Container, clean_database: None) -> ServiceClientService:
    return container.service_clients


async def _open(doors: httpx.AsyncClient, key: str) -> dict[str, int]:
    """Return the status with which each door answers the key."""
    return {door: (await doors.get(door, headers={"X-API-Key": key})).status_code for door in DOORS}


async def _works(doors: httpx.AsyncClient, key: str) -> bool:
    return (await doors.get("/service", headers={"X-API-Key": key})).status_code == 200


def _id(key: str) -> str:
    return key.split("_")[1]


@pytest.mark.parametrize("form", ["Authorization", "authorization", "X-API-Key", "x-api-key"])
async def test_key_is_accepted_in_either_header_and_names_the_actor(
    doors: httpx.AsyncClient, services: ServiceClientService, form: str
) -> None:
    key = await services.create_service(TESTER, "calendar")
    value = f"Bearer {key}" if form.lower() == "authorization" else key

    response = await doors.get("/service", headers={form: value})

    assert (response.status_code, response.json()) == (200, "service calendar calendar")


async def test_credential_that_is_not_exactly_one_good_key_is_refused_at_every_door(
    doors: httpx.AsyncClient, services: ServiceClientService, journey: Journey
) -> None:
    key = await services.create_service(TESTER, "calendar", ["admin"])
    other_digit = key[:-1] + ("0" if key[-1] != "0" else "1")
    attempts: list[list[tuple[str, str]]] = [
        [],
        [("X-API-Key", key), ("Authorization", f"Bearer {key}")],
        [("X-API-Key", key), ("X-API-Key", key)],
        [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")],
        [("X-API-Key", key), ("Authorization", "")],
        [("X-API-Key", other_digit)],
        [("X-API-Key", f"{key}0")],
        [("X-API-Key", key.upper())],
        [("X-API-Key", UNKNOWN_KEY)],
        [("X-API-Key", f"Bearer {key}")],
        [("Authorization", key)],
        [("Authorization", f"Basic {key}")],
        [("Authorization", f"Bearer {UNKNOWN_KEY}")],
    ]

    for headers in attempts:
        for door in DOORS:
            assert_problem(await doors.get(door, headers=headers), 401, "unauthenticated")


async def test_session_opens_only_the_doors_for_admins_who_are_users(
    doors: httpx.AsyncClient, journey: Journey
) -> None:
    async def opened(headers: Headers) -> list[int]:
        return [(await doors.get(door, headers=headers)).status_code for door in DOORS]

    assert await opened(journey.headers_of(ADMIN_USER_ID)) == [401, 401, 200, 200]
    assert await opened(journey.headers_of("user_ada")) == [401, 401, 403, 403]


@pytest.mark.parametrize(
    ("permissions", "statuses"),
    [
        ([], [200, 403, 403, 403]),
        (["users:read"], [200, 200, 403, 403]),
        (["users:search"], [200, 403, 200, 403]),
        (["users:read", "users:search"], [200, 200, 200, 403]),
        (["admin"], [200, 200, 200, 200]),
    ],
)
async def test_each_permission_opens_its_own_door_and_admin_opens_all(
    doors: httpx.AsyncClient, services: ServiceClientService, permissions: list[str], statuses: list[int]
) -> None:
    key = await services.create_service(TESTER, "calendar", permissions)

    assert await _open(doors, key) == dict(zip(DOORS, statuses, strict=True))


async def test_missing_permission_is_a_problem(doors: httpx.AsyncClient, services: ServiceClientService) -> None:
    key = await services.create_service(TESTER, "calendar")

    assert_problem(await doors.get("/read", headers={"X-API-Key": key}), 403, "forbidden")


async def test_key_that_is_refused_is_refused_by_the_very_next_call_at_every_door(
    doors: httpx.AsyncClient, connected: Connected
) -> None:
    services = connected.journey.container.service_clients
    await services.set_permissions(TESTER, "calendar-sync", ["admin"])
    keys = [connected.key["Authorization"].removeprefix("Bearer ")]

    async def answers() -> set[int]:
        token = await connected.journey.get_token({"X-API-Key": keys[-1]}, connected.user_id)
        return {token.status_code, *(await _open(doors, keys[-1])).values()}

    seen = [await answers()]
    await services.disable_service(TESTER, "calendar-sync")
    seen.append(await answers())
    await services.enable_service(TESTER, "calendar-sync")
    seen.append(await answers())
    await services.revoke_key(TESTER, "calendar-sync", _id(keys[-1]))
    seen.append(await answers())
    keys.append(await services.rotate_key(TESTER, "calendar-sync"))
    seen.append(await answers())
    await services.revoke_service(TESTER, "calendar-sync")
    seen.append(await answers())

    assert seen == [{200}, {401}, {200}, {401}, {200}, {401}]


async def test_former_key_goes_on_until_its_end_and_the_new_one_works_at_once(
    doors: httpx.AsyncClient, services: ServiceClientService, journey: Journey
) -> None:
    old = await services.create_service(TESTER, "calendar")
    new = await services.rotate_key(TESTER, "calendar", overlap_seconds=3600)
    during = [await _works(doors, old), await _works(doors, new)]
    end = await journey.owner.fetchval(
        "SELECT extract(epoch FROM expires_at - now()) FROM service_keys WHERE id = $1", _id(old)
    )

    await journey.owner.execute("UPDATE service_keys SET expires_at = expires_at - interval '1 hour'")

    assert during == [True, True]
    assert 3590 < end <= 3600
    assert [await _works(doors, old), await _works(doors, new)] == [False, True]
    described = await services.get_service(TESTER, "calendar")
    assert [(key.id, key.live) for key in described.keys] == [(_id(old), False), (_id(new), True)]


async def test_rotation_without_an_overlap_ends_every_other_key_at_once(
    doors: httpx.AsyncClient, services: ServiceClientService
) -> None:
    first = await services.create_service(TESTER, "calendar")
    second = await services.rotate_key(TESTER, "calendar")

    third = await services.rotate_key(TESTER, "calendar", overlap_seconds=0)

    assert [await _works(doors, key) for key in (first, second, third)] == [False, False, True]


async def test_rotation_never_lets_a_key_live_longer_than_it_would_have(
    services: ServiceClientService, journey: Journey
) -> None:
    first = await services.create_service(TESTER, "calendar")
    await services.rotate_key(TESTER, "calendar", overlap_seconds=60)
    await services.rotate_key(TESTER, "calendar", overlap_seconds=7200)

    rows = await journey.owner.fetch(
        "SELECT id, extract(epoch FROM expires_at - now()) AS left FROM service_keys WHERE expires_at IS NOT NULL"
    )

    left = {row["id"]: row["left"] for row in rows}
    assert len(left) == 2
    assert 50 < left.pop(_id(first)) <= 60
    assert 7190 < left.popitem()[1] <= 7200


async def test_rotation_leaves_keys_alone_that_are_dead_or_another_services(
    doors: httpx.AsyncClient, services: ServiceClientService, journey: Journey
) -> None:
    other = await services.create_service(TESTER, "mailer")
    expired = await services.create_service(TESTER, "calendar")
    past = datetime.now(UTC).replace(microsecond=0) - timedelta(days=2)
    await journey.owner.execute("UPDATE service_keys SET expires_at = $1 WHERE id = $2", past, _id(expired))

    await services.rotate_key(TESTER, "calendar", overlap_seconds=3600)

    rows = await journey.owner.fetch("SELECT id, expires_at FROM service_keys")
    ends = {row["id"]: row["expires_at"] for row in rows}
    assert (ends[_id(other)], ends[_id(expired)]) == (None, past)
    assert [await _works(doors, key) for key in (other, expired)] == [True, False]


async def test_rotation_records_the_ends_that_it_moved(services: ServiceClientService, journey: Journey) -> None:
    old = await services.create_service(TESTER, "calendar")
    new = await services.rotate_key(TESTER, "calendar", overlap_seconds=3600)

    changes = await journey.owner.fetchval(
        "SELECT d.changes FROM audit_details d JOIN audit_logs l USING (id) WHERE l.action = 'service.key_rotated'"
    )

    assert f'"{_id(old)}.expires_at": [null, "20' in changes
    assert f'"key_id": [null, "{_id(new)}"]' in changes


async def test_rotations_at_once_leave_one_live_key(services: ServiceClientService) -> None:
    await services.create_service(TESTER, "calendar")

    keys = await asyncio.gather(*(services.rotate_key(TESTER, "calendar", overlap_seconds=0) for _ in range(8)))

    described = await services.get_service(TESTER, "calendar")
    live = [key.id for key in described.keys if key.live]
    assert len(live) == 1
    assert live[0] in {_id(key) for key in keys}
    assert len(described.keys) == 9


async def test_revocation_and_rotation_at_once_leave_no_old_key_live(
    doors: httpx.AsyncClient, services: ServiceClientService
) -> None:
    old = await services.create_service(TESTER, "calendar")

    new, _ = await asyncio.gather(services.rotate_key(TESTER, "calendar"), services.revoke_service(TESTER, "calendar"))

    assert not await _works(doors, old)
    live = [key.id for key in (await services.get_service(TESTER, "calendar")).keys if key.live]
    assert live in ([], [_id(new)])


class Use:
    """Two service keys, a recorder of their uses by a clock that the test moves, and the times recorded for them."""

    def __init__(self, journey: Journey, keys: list[str]) -> None:
        self.clock = SetClock(time.time())
        self.usage = key_usage(journey.container.resources.unit_of_work, self.clock)
        self.keys = keys
        self._owner = journey.owner

    async def times(self) -> list[datetime | None]:
        rows = await self._owner.fetch("SELECT id, last_used_at FROM service_keys")
        by_id = {row["id"]: row["last_used_at"] for row in rows}
        return [by_id[key] for key in self.keys]

    async def pass_seconds(self, seconds: float) -> None:
        """Let time pass: move the recorder's clock forward, and the recorded times back."""
        self.clock.seconds += seconds
        await self._owner.execute(
            "UPDATE service_keys SET last_used_at = last_used_at - make_interval(secs => $1)", seconds
        )


@pytest.fixture
async def use(services: ServiceClientService, journey: Journey) -> Use:
    return Use(journey, [_id(await services.create_service(TESTER, name)) for name in ("calendar", "mailer")])


async def test_use_is_written_once_a_minute_for_each_key(use: Use) -> None:
    first, second = use.keys
    await use.usage.record(first)
    early = await use.times()
    await use.usage.record(second)
    both = await use.times()
    await use.pass_seconds(59)
    moved = await use.times()
    await use.usage.record(first)
    unchanged = await use.times()
    await use.pass_seconds(2)
    await use.usage.record(first)
    late = await use.times()

    assert early[0] is not None
    assert early[1] is None
    assert both[0] == early[0]
    assert both[1] is not None
    assert unchanged == moved
    assert late[0] is not None
    assert moved[0] is not None
    assert late[0] > moved[0] + timedelta(seconds=50)
    assert moved[1] is not None
    assert late[1] == moved[1] - timedelta(seconds=2)


async def test_use_that_another_process_wrote_within_the_minute_is_not_written_again(
    use: Use, journey: Journey
) -> None:
    key = use.keys[0]
    await use.usage.record(key)
    written = await use.times()

    await key_usage(journey.container.resources.unit_of_work, use.clock).record(key)

    assert await use.times() == written


async def test_uses_at_the_same_moment_write_once(use: Use, journey: Journey) -> None:
    units = 0
    unit_of_work = journey.container.resources.unit_of_work

    def counted(actor: Principal) -> AbstractAsyncContextManager[UnitOfWork]:
        nonlocal units
        units += 1
        return unit_of_work(actor)

    usage = key_usage(counted, use.clock)

    await asyncio.gather(*(usage.record(use.keys[0]) for _ in range(20)))

    assert units == 1
    assert (await use.times())[0] is not None


async def test_use_does_not_wait_for_a_key_that_somebody_is_changing(use: Use, journey: Journey) -> None:
    async with journey.owner.transaction():
        await journey.owner.execute("SELECT FROM service_keys FOR UPDATE")
        with capture_logs() as lines:
            await use.usage.record(use.keys[0])

    assert lines == []
    assert await use.times() == [None, None]


async def test_use_that_cannot_be_written_is_logged_and_the_answer_stays_good(
    doors: httpx.AsyncClient, connected: Connected, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_recorder, "TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr(use_recorder, "PAUSE_SECONDS", 0.0)
    ordinary = await connected.journey.container.service_clients.create_service(TESTER, "ordinary")

    async with connected.journey.owner.transaction():
        await connected.journey.owner.execute("LOCK TABLE service_keys IN SHARE MODE")
        with capture_logs() as lines:
            route = await doors.get("/service", headers={"X-API-Key": ordinary})
            token = await connected.get()

    assert (route.status_code, token.status_code) == (200, 200)
    failures = [line for line in lines if line["event"] == "use.not_recorded"]
    assert [(line["thing"], line["reason"]) for line in failures] == [("service_key", "TimeoutError")] * 2


async def test_use_is_tried_again_after_a_pause_in_which_nobody_waits(
    use: Use, journey: Journey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(use_recorder, "TIMEOUT_SECONDS", 0.1)
    first, second = use.keys
    counter = UNRECORDED_USES.labels("service_key")
    before = value_of(counter)
    with capture_logs() as lines:
        async with journey.owner.transaction():
            await journey.owner.execute("LOCK TABLE service_keys IN SHARE MODE")
            await asyncio.gather(*(use.usage.record(key) for key in use.keys))
        use.clock.seconds += use_recorder.PAUSE_SECONDS - 0.01
        await use.usage.record(first)
        in_the_pause = await use.times()
        use.clock.seconds += 0.01
        await use.usage.record(first)
        await use.usage.record(second)

    assert in_the_pause == [None, None]
    assert None not in await use.times()
    assert [line["event"] for line in lines] == ["use.not_recorded"]
    assert value_of(counter) - before == 3


async def test_statement_that_postgres_refuses_is_an_error_in_the_log_and_fails_no_request(
    use: Use, journey: Journey
) -> None:
    async def write(connection: AsyncConnection, _key: str) -> None:
        await connection.execute(sa.text("SELECT no_such_column"))

    broken = UseRecorder(
        journey.container.resources.unit_of_work, use.clock, thing="user", period_seconds=1, write=write
    )

    with capture_logs() as lines:
        await broken.record("x")

    assert [(line["event"], line["log_level"]) for line in lines] == [("use.not_recorded", "error")]
    assert "42703" in lines[0]["reason"]


async def test_number_of_remembered_keys_is_bounded(use: Use, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use_recorder, "MAX_KEYS", 3)

    for number in range(10):
        await use.usage.record(f"{number:012}")

    assert len(use.usage._written) <= 3


async def test_use_is_written_by_ordinary_routes_and_token_reads_and_not_by_refusals(
    doors: httpx.AsyncClient, connected: Connected
) -> None:
    services, owner = connected.journey.container.service_clients, connected.journey.owner
    ordinary = await services.create_service(TESTER, "ordinary")
    idle = await services.create_service(TESTER, "idle")
    used = "SELECT name FROM service_keys k JOIN service_clients c ON c.id = k.client_id WHERE last_used_at IS NOT NULL"

    await connected.journey.get_token({"X-API-Key": idle}, connected.user_id)
    await doors.get("/service", headers={"X-API-Key": idle[:-1] + ("0" if idle[-1] != "0" else "1")})
    before = await owner.fetch(used)
    await connected.get()
    after_token = await owner.fetch(used)
    await doors.get("/service", headers={"X-API-Key": ordinary})
    after_both = await owner.fetch(used)

    assert [row["name"] for row in before] == []
    assert [row["name"] for row in after_token] == ["calendar-sync"]
    assert sorted(row["name"] for row in after_both) == ["calendar-sync", "ordinary"]
