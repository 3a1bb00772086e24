"""Tests of the sweep over all of Clerk's users: differences that no webhook reported are found and repaired, and
nothing else is changed."""

from collections.abc import AsyncIterator
from datetime import timedelta
from functools import partial
from typing import Any

import asyncpg
import httpx
import pytest
from sqlalchemy.exc import DBAPIError
from structlog.testing import capture_logs

from services.sandbox.app import create_app
from services.sandbox.faults import Fault
from services.sandbox.state import Sandbox
from services.user_management.container import Container
from services.user_management.container.reconciliation import build_reconciliation, reconcile_slice
from services.user_management.enums import JobName
from services.user_management.exceptions import ClerkRefusedError, RetryLaterError
from services.user_management.http_client import create_http_client
from services.user_management.queries import user as user_queries
from services.user_management.schemas.user import UserUpdate
from services.user_management.services.reconcile_service import Drift, ReconcileService, Sweep
from services.user_management.services.user_service import UserErasure
from services.user_management.tests.actors import TESTER
from services.user_management.tests.clerk_history import changes_of, count, deliver, event, state_of, states
from services.user_management.tests.conftest import SANDBOX_URL
from services.user_management.tests.replacing import replace_in_group

Owner = asyncpg.Connection
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("clean_database")]


@pytest.fixture
async def clerk_sandbox(container: Container, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Sandbox]:
    """Give a sandbox whose Clerk has only this test's users; the service's calls to its issuer go there."""
    sandbox = Sandbox(base_url=SANDBOX_URL)
    async with create_http_client(httpx.ASGITransport(app=create_app(sandbox))) as http:
        replace_in_group(monkeypatch, container, "resources", issuer_http=http)
        yield sandbox


@pytest.fixture
def reconciler(container: Container, clerk_sandbox: Sandbox) -> ReconcileService:
    return build_reconciliation(container)


async def _known(container: Container, sandbox: Sandbox, **fields: Any) -> str:
    """Make a user at Clerk, deliver the webhook about them to the service, and return Clerk's id of the user."""
    user = sandbox.clerk.create_user(**fields)
    await deliver(container, sandbox.clerk.event("user.created", user))
    return str(user["id"])


async def test_user_whom_no_webhook_told_us_of_is_created(
    reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    user = clerk_sandbox.clerk.create_user(email="ada@example.com", first_name="Ada")

    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift(checked=1, created=1)
    state = await state_of(owner, user["id"])
    assert (state["email"], state["first_name"], len(state["preferences"])) == ("ada@example.com", "Ada", 1)


async def test_change_that_no_webhook_told_us_of_is_made_and_local_edits_stay(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox, email="ada@example.com", first_name="Ada", last_name="Lovelace")
    await container.users.profiles.update_user(TESTER, ada, UserUpdate(first_name="Local"), expected=None)
    clerk_sandbox.clerk.update_user(ada, first_name="Augusta", last_name="King", email="countess@example.com")

    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift(checked=1, updated=1)
    state = await state_of(owner, ada)
    assert (state["first_name"], state["last_name"], state["email"]) == ("Local", "King", "countess@example.com")
    assert state["upstream_profile"]["first_name"] == "Augusta"
    assert (await changes_of(owner, ada, "user.updated"))[-1].keys() == {"last_name", "email"}


async def test_ban_that_no_webhook_told_us_of_suspends(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox)
    clerk_sandbox.clerk.ban_user(ada)

    await reconciler.sweep(TESTER, repair=True)

    assert (await state_of(owner, ada))["status"] == "suspended"


async def test_second_sweep_finds_nothing(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    gone = await _known(container, clerk_sandbox)
    changed = await _known(container, clerk_sandbox)
    clerk_sandbox.clerk.delete_user(gone)
    clerk_sandbox.clerk.update_user(changed, first_name="Augusta")
    clerk_sandbox.clerk.create_user()

    first = await reconciler.sweep(TESTER, repair=True)
    audited, told = await count(owner, "audit_logs"), await count(owner, "outbox_events")
    second = await reconciler.sweep(TESTER, repair=True)

    assert first == Drift(checked=2, created=1, updated=1, deleted=1)
    assert second == Drift(checked=2)
    assert (await count(owner, "audit_logs"), await count(owner, "outbox_events")) == (audited, told)


async def test_sweep_takes_note_of_a_moment_whose_content_it_knew(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox, first_name="Ada")
    between = clerk_sandbox.clerk.update_user(ada, first_name="Augusta")
    clerk_sandbox.clerk.update_user(ada, first_name="Ada")

    drift = await reconciler.sweep(TESTER, repair=True)
    await deliver(container, clerk_sandbox.clerk.event("user.updated", between))

    assert drift == Drift(checked=1)
    assert (await state_of(owner, ada))["first_name"] == "Ada"


async def test_user_from_before_the_order_was_kept_whole_is_compared(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox, first_name="Ada")
    await owner.execute("UPDATE users SET upstream_event_at = NULL, upstream_digest = NULL, upstream_profile = NULL")

    await reconciler.sweep(TESTER, repair=True)

    state = await state_of(owner, ada)
    assert state["upstream_profile"]["first_name"] == "Ada"
    assert (await reconciler.sweep(TESTER, repair=True)).found == 0


async def test_user_gone_at_clerk_is_deleted_here(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox)
    clerk_sandbox.clerk.delete_user(ada)

    drift = await reconciler.sweep(TESTER, repair=True)

    state = await state_of(owner, ada)
    assert drift == Drift(deleted=1)
    assert (state["is_deleted"], state["deleted_by"]) == (True, "upstream")
    assert clerk_sandbox.ledger.count("clerk", "users.get") == 1


@pytest.mark.parametrize(
    "answer",
    [{"status": 404, "body": "<h1>Not found</h1>"}, {"status": 404, "body": {"message": "no Route"}}, {"status": 503}],
    ids=["html", "another's 404", "503"],
)
async def test_user_is_deleted_for_nothing_less_than_clerks_own_404(
    container: Container,
    reconciler: ReconcileService,
    clerk_sandbox: Sandbox,
    owner: "Owner[asyncpg.Record]",
    answer: dict[str, Any],
) -> None:
    ada = await _known(container, clerk_sandbox)
    clerk_sandbox.clerk.delete_user(ada)
    clerk_sandbox.faults.add(Fault(party="clerk", operation="users.get", action="status", **answer))

    with pytest.raises(RetryLaterError):
        await reconciler.sweep(TESTER, repair=True)

    assert not (await state_of(owner, ada))["is_deleted"]


async def test_user_whom_only_the_filter_left_out_stays(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox)
    # Clerk leaves the user out of the list twice: in the first pass, and when the second pass asks for this user.
    empty = Fault(party="clerk", operation="users.list", action="status", status=200, body="[]", times=2)
    clerk_sandbox.faults.add(empty)

    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift()
    assert not (await state_of(owner, ada))["is_deleted"]
    assert clerk_sandbox.ledger.count("clerk", "users.get") == 1


async def test_more_deletions_than_the_limit_are_all_held_back(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    for _ in range(5):
        clerk_sandbox.clerk.delete_user(await _known(container, clerk_sandbox))

    held = await reconciler.sweep(TESTER, repair=True, max_deletions=2)
    alive = await owner.fetchval("SELECT count(*) FROM users WHERE deleted_at IS NULL")
    allowed = await reconciler.sweep(TESTER, repair=True, max_deletions=5)

    assert (held, alive) == (Drift(deletions_held_back=3), 5)
    assert allowed == Drift(deleted=5)


async def test_key_of_another_instance_deletes_nobody_in_a_small_deployment(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    for _ in range(5):
        clerk_sandbox.clerk.delete_user(await _known(container, clerk_sandbox))
    for _ in range(3):
        clerk_sandbox.clerk.create_user()

    assert await reconciler.sweep_slice(TESTER) is None

    alive = await owner.fetchval("SELECT count(*) FROM users WHERE deleted_at IS NULL")
    assert alive == 5 + 3


async def test_user_restored_and_seen_again_at_clerk_can_be_missed_again(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox)
    await container.users.administration.delete_user(TESTER, ada)
    await container.users.administration.restore_user(TESTER, ada)
    await reconciler.sweep(TESTER, repair=True)
    clerk_sandbox.clerk.delete_user(ada)

    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift(deleted=1)
    assert (await state_of(owner, ada))["is_deleted"]


async def test_brake_holds_across_slices(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox)
    clerk_sandbox.clerk.delete_user(ada)
    gone = [f"user_{number}" for number in range(50)]
    at_the_limit = Sweep(Drift(), offset=None, gone=gone, known=10_000).cursor()

    left = await reconciler.sweep_slice(TESTER, at_the_limit)

    assert left is None
    assert not (await state_of(owner, ada))["is_deleted"]


async def test_user_deleted_here_is_neither_restored_nor_deleted_again(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox, first_name="Ada")
    await container.users.administration.delete_user(TESTER, ada)
    clerk_sandbox.clerk.update_user(ada, first_name="Augusta")

    first = await reconciler.sweep(TESTER, repair=True)
    clerk_sandbox.clerk.delete_user(ada)
    second = await reconciler.sweep(TESTER, repair=True)

    state = await state_of(owner, ada)
    assert (first.updated, second) == (1, Drift())
    assert (state["is_deleted"], state["deleted_by"], state["first_name"]) == (True, "admin", "Augusta")


async def test_user_restored_here_stays_although_clerk_has_none(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox)
    await deliver(container, clerk_sandbox.clerk.event("user.deleted", clerk_sandbox.clerk.delete_user(ada)))
    await container.users.administration.restore_user(TESTER, ada)

    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift()
    assert not (await state_of(owner, ada))["is_deleted"]


async def test_user_restored_while_a_sweep_decides_stays(
    container: Container,
    reconciler: ReconcileService,
    clerk_sandbox: Sandbox,
    owner: "Owner[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ada = await _known(container, clerk_sandbox)
    clerk_sandbox.clerk.delete_user(ada)
    live_subjects = user_queries.live_subjects

    async def then_an_admin_comes(*arguments: Any, **options: Any) -> Any:
        found = await live_subjects(*arguments, **options)
        if found:
            await container.users.administration.delete_user(TESTER, ada)
            await container.users.administration.restore_user(TESTER, ada)
        return found

    monkeypatch.setattr(user_queries, "live_subjects", then_an_admin_comes)
    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift()
    assert not (await state_of(owner, ada))["is_deleted"]


async def test_user_erased_here_is_not_created_again(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ada = await _known(container, clerk_sandbox, first_name="Ada")
    await container.users.administration.delete_user(TESTER, ada)
    await UserErasure(
        unit_of_work=container.resources.unit_of_work,
        signer=container.resources.signer,
        states=container.users.states,
        providers=container.resources.providers,
        hold_back=timedelta(seconds=-60),
        start_slice=container.resources.start_slice,
    ).erase_due(TESTER)

    looked = await reconciler.sweep(TESTER, repair=False)
    repaired = await reconciler.sweep(TESTER, repair=True)

    assert looked == repaired == Drift(checked=1)
    assert await count(owner, "users") == 0


async def test_user_who_cannot_be_read_is_counted_and_the_others_go_on(
    reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    clerk_sandbox.clerk.create_user(banned="temporarily")
    good = clerk_sandbox.clerk.create_user(first_name="Ada")

    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift(checked=2, created=1, unreadable=1)
    assert (await states(owner)).keys() == {good["id"]}


async def test_user_who_cannot_be_written_is_counted_and_the_others_go_on(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    gone, changed = [await _known(container, clerk_sandbox, first_name="Ada") for _ in range(2)]
    clerk_sandbox.clerk.delete_user(gone)
    clerk_sandbox.clerk.update_user(changed, first_name="refused")
    clerk_sandbox.clerk.create_user(first_name="refused", last_name="Lovelace")
    good = clerk_sandbox.clerk.create_user(first_name="Ada")["id"]
    await owner.execute(
        "ALTER TABLE users ADD CONSTRAINT fails CHECK (first_name <> 'refused' AND deleted_at IS NULL) NOT VALID"
    )
    try:
        with capture_logs() as lines:
            failed = await reconciler.sweep(TESTER, repair=True)
    finally:
        await owner.execute("ALTER TABLE users DROP CONSTRAINT fails")
    repaired = await reconciler.sweep(TESTER, repair=True)

    assert (failed, failed.found) == (Drift(checked=3, created=1, failed=3), 4)
    told = [line for line in lines if line["event"] == "reconcile.user_failed"]
    assert {changed, gone} < {line["subject"] for line in told}
    assert {line["reason"] for line in told} == {"IntegrityError: CheckViolationError 23514 fails"}
    assert good in await states(owner)
    assert repaired == Drift(checked=3, created=1, updated=1, deleted=1)


async def test_sweep_ends_when_postgres_gives_up(
    reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    clerk_sandbox.clerk.create_user()
    await owner.execute(
        "CREATE FUNCTION gives_up() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'disk full' USING ERRCODE = '53100'; END $$;"
        "CREATE TRIGGER gives_up BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION gives_up()"
    )
    try:
        with pytest.raises(DBAPIError):
            await reconciler.sweep(TESTER, repair=True)
    finally:
        await owner.execute("DROP TRIGGER gives_up ON users; DROP FUNCTION gives_up")


async def test_looking_only_writes_nothing(
    container: Container, reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    gone = await _known(container, clerk_sandbox)
    changed = await _known(container, clerk_sandbox)
    clerk_sandbox.clerk.delete_user(gone)
    clerk_sandbox.clerk.update_user(changed, first_name="Augusta")
    clerk_sandbox.clerk.create_user()
    tables = ("users", "user_identities", "user_preferences", "audit_logs", "audit_details", "outbox_events")
    before = [await owner.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in tables]  # noqa: S608 - our own tables

    drift = await reconciler.sweep(TESTER, repair=False)

    assert drift == Drift(checked=2, created=1, updated=1, deleted=1)
    after = [await owner.fetch(f"SELECT * FROM {table} ORDER BY 1") for table in tables]  # noqa: S608 - our own tables
    assert before == after


async def test_more_users_than_fit_on_three_pages_are_all_found(
    reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    ids = {clerk_sandbox.clerk.create_user()["id"] for _ in range(350)}

    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift(checked=350, created=350)
    assert (await states(owner)).keys() == ids
    # The first pass reads four pages; the second asks four times for users by their ids.
    assert clerk_sandbox.ledger.count("clerk", "users.list") == 8


@pytest.mark.parametrize("status", [500, 429])
async def test_clerk_that_fails_in_mid_sweep_is_asked_again_from_the_cursor(
    reconciler: ReconcileService,
    clerk_sandbox: Sandbox,
    owner: "Owner[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    for number in range(150):
        clerk_sandbox.clerk.create_user(created_at=1_700_000_000_000 + number)
    # A slice has time for one page.
    monkeypatch.setattr("services.user_management.services.slice_time.SLICE_SECONDS", 0.1)
    cursor = await reconciler.sweep_slice(TESTER)
    clerk_sandbox.faults.add(Fault(party="clerk", operation="users.list", action="status", status=status))

    assert await reconciler.sweep_slice(TESTER, cursor) == cursor
    created_before, asked_before = await count(owner, "users"), clerk_sandbox.ledger.count("clerk", "users.list")
    while cursor is not None:
        cursor = await reconciler.sweep_slice(TESTER, cursor)

    assert (created_before, asked_before) == (100, 2)
    assert await count(owner, "users") == 150
    # The second page, and two requests of the second pass; the first page is not read again.
    assert clerk_sandbox.ledger.count("clerk", "users.list") == asked_before + 3


async def test_clerk_that_refuses_our_key_ends_the_slice(
    reconciler: ReconcileService, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]"
) -> None:
    clerk_sandbox.clerk.create_user()
    clerk_sandbox.faults.add(Fault(party="clerk", operation="users.list", action="status", status=401))

    with pytest.raises(ClerkRefusedError):
        await reconciler.sweep_slice(TESTER)

    assert await count(owner, "users") == 0


async def test_sweep_as_a_job_survives_an_outage_of_clerk_between_two_slices(
    container: Container, clerk_sandbox: Sandbox, owner: "Owner[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(150):
        clerk_sandbox.clerk.create_user(created_at=1_700_000_000_000 + number)
    monkeypatch.setattr("services.user_management.services.slice_time.SLICE_SECONDS", 0.1)
    slice_of_work = partial(reconcile_slice, container)

    async def tick() -> bool:
        return await container.jobs.runner.run(JobName.RECONCILE_CLERK, period_seconds=86_400, work=slice_of_work)

    await tick()
    for _ in range(5):  # more often than a slot may fail
        clerk_sandbox.faults.add(Fault(party="clerk", operation="users.list", action="status", status=503))
        await tick()
    while await tick():
        """The next slice."""

    assert await count(owner, "users") == 150
    assert await owner.fetchval("SELECT finished_at IS NOT NULL AND error IS NULL FROM job_runs")
    assert (
        await owner.fetchval("SELECT DISTINCT actor_id FROM audit_logs WHERE user_id IS NOT NULL") == "reconcile_clerk"
    )


async def test_event_that_arrives_during_the_sweep_is_not_overwritten_by_the_older_page(
    container: Container,
    reconciler: ReconcileService,
    clerk_sandbox: Sandbox,
    owner: "Owner[asyncpg.Record]",
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ada = await _known(container, clerk_sandbox, first_name="Ada")
    clerk_sandbox.clerk.update_user(ada, first_name="On the page")
    read_upstream_state = user_queries.read_upstream_state

    async def then_an_event_comes(*arguments: Any, **options: Any) -> Any:
        found = await read_upstream_state(*arguments, **options)
        newest = clerk_sandbox.clerk.update_user(ada, first_name="Newest")
        await deliver(container, event("user.updated", newest))
        return found

    monkeypatch.setattr(user_queries, "read_upstream_state", then_an_event_comes)
    drift = await reconciler.sweep(TESTER, repair=True)

    assert drift == Drift(checked=1)
    assert (await state_of(owner, ada))["first_name"] == "Newest"
