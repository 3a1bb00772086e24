"""Tests of how users are created, suspended, deleted, restored and erased by themselves, administrators and upstream,
and which change wins."""

from datetime import timedelta

import asyncpg
import pytest

from services.user_management.container import Container
from services.user_management.core.context import RequestContext, use_context
from services.user_management.exceptions import ConflictError, UserNotFoundError
from services.user_management.models import metadata
from services.user_management.schemas.user import UserUpdate
from services.user_management.security.signing import Signer
from services.user_management.services.preferences_service import PreferencesManager
from services.user_management.services.user_service import UpstreamUsers
from services.user_management.services.webhook_service import WebhookService
from services.user_management.tests.actors import TESTER
from services.user_management.tests.clerk_history import (
    changes_of,
    count,
    deleted,
    deliver,
    described,
    event,
    published,
    signed_in,
    state_of,
    updated,
)
from services.user_management.tests.conftest import ADMIN_USER_ID
from services.user_management.tests.journey import Journey
from services.user_management.tests.replacing import replace_in_group
from services.user_management.tests.scenes import Connected, assert_problem, audit_actions

Owner = asyncpg.Connection
pytestmark = pytest.mark.usefixtures("clean_database")

ADA = "user_ada"
DAY = 86_400_000
BEFORE_HOLD_BACK, AFTER_HOLD_BACK = timedelta(days=29, hours=23), timedelta(days=30, hours=1)


async def _pass(owner: "Owner[asyncpg.Record]", time: timedelta) -> None:
    """Move the deletion of every deleted user into the past by `time`."""
    await owner.execute("UPDATE users SET deleted_at = deleted_at - $1::interval", time)


async def _erased(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    """Create Ada, delete her, and erase her."""
    await deliver(container, updated(ADA, at=1, first_name="Ada"))
    await deliver(container, deleted(ADA, at=2))
    await _pass(owner, AFTER_HOLD_BACK)
    assert await container.users.erasure.erase_due(TESTER) is None
    assert await count(owner, "users") == 0


async def test_created_after_deleted_stays_deleted(container: Container, owner: "Owner[asyncpg.Record]") -> None:
    await deliver(container, deleted(ADA, at=2))
    await deliver(container, event("user.created", described(ADA, at=1, first_name="Ada"), at=1))
    await deliver(container, updated(ADA, at=3, first_name="Augusta"))

    state = await state_of(owner, ADA)
    assert (state["is_deleted"], state["deleted_by"], state["status"]) == (True, "upstream", "deactivated")
    assert state["first_name"] == "Augusta"
    assert [kind for kind, _ in await published(owner, ADA)] == ["user.created", "user.deleted"]


@pytest.mark.parametrize("visits", [(0,), (1,), (2,), (0, 1, 2)], ids=str)
async def test_visit_before_between_and_after_events_changes_nothing_about_the_end(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]", visits: tuple[int, ...]
) -> None:
    events = [updated(ADA, at=2, first_name="Augusta"), updated(ADA, at=1, first_name="Ada")]

    for number in range(3):
        if number in visits:
            seen = await journey.client.get("/users/me", headers=journey.headers_of(ADA))
            assert seen.status_code == 200, seen.text
        if number < 2:
            await deliver(container, events[number])

    state = await state_of(owner, ADA)
    assert (state["first_name"], state["status"]) == ("Augusta", "active")
    assert len(state["identities"]) == len(state["preferences"]) == 1
    assert (await audit_actions(journey, ADA)).count("user.created") == 1


async def test_visit_after_a_delete_that_came_first_is_refused(journey: Journey, container: Container) -> None:
    await deliver(container, deleted(ADA, at=1))

    refused = await journey.client.get("/users/me", headers=journey.headers_of(ADA))

    assert_problem(refused, 403, "user_inactive")


async def test_session_of_an_erased_subject_is_refused(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await _erased(container, owner)

    refused = await journey.client.get("/users/me", headers=journey.headers_of(ADA))

    assert_problem(refused, 401, "unauthenticated")
    assert await count(owner, "users") == 0


ABOUT_ADA = {
    "user": described(ADA, at=9, first_name="Ada", email="ada@example.com"),
    "session": signed_in(ADA, at=9)["data"],
    "email": {"id": "ema_1", "object": "email", "user_id": ADA, "to_email_address": "ada@example.com"},
    "organizationMembership": {"id": "orgmem_1", "public_user_data": {"user_id": ADA, "first_name": "Ada"}},
}


@pytest.mark.parametrize(
    "kind",
    [
        "user.created",
        "user.updated",
        "user.deleted",
        "session.created",
        "session.ended",
        "email.created",
        "organizationMembership.created",
    ],
)
async def test_late_event_of_an_erased_subject_creates_nobody_and_is_not_kept(
    container: Container, owner: "Owner[asyncpg.Record]", kind: str
) -> None:
    await _erased(container, owner)

    accepted = await deliver(container, event(kind, ABOUT_ADA[kind.partition(".")[0]], at=9), "msg_late")

    assert accepted.applied
    assert await count(owner, "users") == 0
    row = await owner.fetchrow("SELECT payload, applied_at FROM webhook_events WHERE message_id = 'msg_late'")
    assert row is not None
    assert (row["payload"], row["applied_at"] is None) == ("{}", False)


async def test_late_event_of_an_erased_subject_that_cannot_be_read_is_not_kept_either(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await _erased(container, owner)
    unreadable = described(ADA, at=9, first_name="Ada") | {"banned": "temporarily"}

    accepted = await deliver(container, event("user.updated", unreadable), "msg_late")

    assert accepted.applied
    assert await owner.fetchval("SELECT payload FROM webhook_events WHERE message_id = 'msg_late'") == "{}"


async def test_tombstone_outlives_a_rotation_of_the_secret(
    container: Container, owner: "Owner[asyncpg.Record]", monkeypatch: pytest.MonkeyPatch
) -> None:
    await _erased(container, owner)
    former = container.resources.settings.signing.secret.get_secret_value().split()

    def knowing(*secrets: str) -> WebhookService:
        return WebhookService(
            database=container.resources.database,
            unit_of_work=container.resources.unit_of_work,
            upstream=UpstreamUsers(preferences=PreferencesManager(), signer=Signer(secrets)),
            states=container.users.states,
            issuer=container.resources.settings.clerk.issuer,
            instance_id=None,
            start_slice=container.resources.start_slice,
        )

    replace_in_group(monkeypatch, container, "clerk", webhooks=knowing("a secret that was made today", *former))
    await deliver(container, updated(ADA, at=9))
    with_both = await count(owner, "users")
    replace_in_group(monkeypatch, container, "clerk", webhooks=knowing("a secret that was made today"))
    await deliver(container, updated(ADA, at=10))

    # The second count shows that the former secret matters: without it the erased subject is not recognised.
    assert (with_both, await count(owner, "users")) == (0, 1)


async def test_who_deleted_an_account_is_known_and_the_first_one_counts(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    for person in ("user_own", "user_admin", "user_upstream"):
        await deliver(container, updated(person, at=1))

    await container.users.profiles.delete_user(TESTER, "user_own", expected=None)
    await container.users.administration.delete_user(TESTER, "user_admin")
    for person in ("user_own", "user_admin", "user_upstream"):
        await deliver(container, deleted(person, at=2))

    await container.users.administration.delete_user(TESTER, "user_own")

    rows = await owner.fetch("SELECT id, deleted_by FROM users ORDER BY id")
    assert [tuple(row) for row in rows] == [
        ("user_admin", "admin"),
        ("user_own", "user"),
        ("user_upstream", "upstream"),
    ]
    for person, by in rows:
        assert await changes_of(owner, person, "user.deleted") == [
            {"status": ["active", "deactivated"], "deleted_by": [None, by]}
        ]
        assert (await published(owner, person))[1:] == [("user.deleted", {"user_id": person})]


async def test_restored_user_has_upstreams_freshest_profile(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated(ADA, at=1, first_name="Ada", last_name="Lovelace"))
    await container.users.profiles.update_user(TESTER, ADA, UserUpdate(last_name="Local"), expected=None)
    await container.users.administration.delete_user(TESTER, ADA)
    await deliver(container, updated(ADA, at=2, first_name="Augusta", last_name="King", email="countess@example.com"))
    await _pass(owner, BEFORE_HOLD_BACK)

    restored = await container.users.administration.restore_user(TESTER, ADA)

    assert (restored.first_name, restored.last_name, restored.email) == ("Augusta", "Local", "countess@example.com")
    assert (restored.status, restored.deleted_at, restored.deleted_by) == ("active", None, None)
    assert restored.restored_at is not None
    assert await changes_of(owner, ADA, "user.restored") == [
        {"status": ["deactivated", "active"], "deleted_by": ["admin", None]}
    ]
    assert (await published(owner, ADA))[-1] == ("user.restored", {"user_id": ADA})


async def test_restored_user_stays_under_everything_that_was_said_before(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated(ADA, at=1))
    await deliver(container, deleted(ADA, at=2), "msg_deleted")
    await container.users.administration.restore_user(TESTER, ADA)

    await deliver(container, deleted(ADA, at=2), "msg_deleted")
    await deliver(container, deleted(ADA, at=2), "msg_sent_anew")
    await deliver(container, updated(ADA, at=3, first_name="Augusta"))
    for row in await owner.fetch("SELECT id FROM webhook_events"):
        assert await container.clerk.webhooks.replay(TESTER, row["id"])

    state = await state_of(owner, ADA)
    assert (state["is_deleted"], state["status"], state["first_name"]) == (False, "active", "Augusta")
    visit = await journey.client.get("/users/me", headers=journey.headers_of(ADA))
    assert visit.status_code == 200


async def test_restored_user_whom_upstream_deletes_afterwards_is_deleted(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated(ADA, at=1))
    await container.users.administration.delete_user(TESTER, ADA)
    await container.users.administration.restore_user(TESTER, ADA)

    await deliver(container, deleted(ADA, at=2 * DAY))

    assert (await state_of(owner, ADA))["deleted_by"] == "upstream"


async def test_suspended_user_who_is_deleted_and_restored_is_suspended(container: Container) -> None:
    await deliver(container, updated(ADA, at=1))
    await container.users.administration.suspend_user(TESTER, ADA, reason="fraud")
    await container.users.administration.delete_user(TESTER, ADA)

    restored = await container.users.administration.restore_user(TESTER, ADA)

    assert (restored.status, restored.suspended_reason) == ("suspended", "fraud")


async def test_restore_is_refused_once_the_hold_back_is_over_and_where_nothing_was_deleted(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    admin = journey.headers_of(ADMIN_USER_ID)
    await deliver(container, updated(ADA, at=1))
    not_deleted = await journey.client.post(f"/admin/users/{ADA}/restore", headers=admin)
    await container.users.administration.delete_user(TESTER, ADA)
    await _pass(owner, AFTER_HOLD_BACK)

    too_late = await journey.client.post(f"/admin/users/{ADA}/restore", headers=admin)
    nobody = await journey.client.post("/admin/users/user_nobody/restore", headers=admin)

    assert_problem(not_deleted, 409, "conflict")
    assert_problem(too_late, 409, "conflict")
    assert_problem(nobody, 404, "user_not_found")
    assert (await state_of(owner, ADA))["is_deleted"]


async def test_erasure_leaves_users_alone_until_the_hold_back_is_over(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated("user_live", at=1))
    await deliver(container, deleted(ADA, at=1))
    await _pass(owner, BEFORE_HOLD_BACK)

    assert await container.users.erasure.erase_due(TESTER) is None

    assert await count(owner, "users") == 2
    assert await count(owner, "erased_subjects") == 0


async def test_erasure_takes_all_that_is_personal_and_leaves_who_did_what(
    connected: Connected, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    ada, journey = connected.user_id, connected.journey
    clerk = journey.sandbox.clerk
    await journey.webhook("session.created", clerk.session_event("session.created", ada))
    await journey.webhook("user.updated", clerk.update_user(ada, first_name="Augusta"))
    await journey.webhook("user.updated", clerk.update_user(ada, first_name="Gone") | {"banned": "temporarily"})
    mail = {"id": "ema_1", "object": "email", "user_id": ada, "to_email_address": "ada@example.com"}
    await journey.webhook("email.created", mail)
    await connected.get()
    await container.users.profiles.update_user(TESTER, ada, UserUpdate(last_name="King"), expected=None)
    await container.users.profiles.delete_user(TESTER, ada, expected=None)
    audited = await audit_actions(journey, ada)
    await _pass(owner, AFTER_HOLD_BACK)

    assert await container.users.erasure.erase_due(TESTER) is None

    tables = ("users", "user_identities", "user_preferences", "integrations", "encrypted_tokens", "sign_ins")
    assert [await count(owner, table) for table in (*tables, "oauth_flows")] == [0] * 7
    assert await owner.fetchval("SELECT count(*) FROM audit_details WHERE user_id = $1", ada) == 0
    payloads = await owner.fetch("SELECT payload, applied_at, next_attempt_at FROM webhook_events")
    assert len(payloads) == 5
    assert all(payload == "{}" and applied and due is None for payload, applied, due in payloads)
    assert await audit_actions(journey, ada) == [*audited, "user.erased"]
    assert await count(owner, "erased_subjects") == 1
    for table in metadata.sorted_tables:
        for (row,) in await owner.fetch(f"SELECT t::text FROM {table.name} t"):  # noqa: S608 - our own table names
            for personal in ("ada@example.com", "Augusta", "King", "Example"):
                assert personal not in row, table.name


async def test_restore_and_erasure_of_one_user_exclude_each_other(
    container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, deleted(ADA, at=1))
    await container.users.administration.restore_user(TESTER, ADA)

    await container.users.erasure.erase_due(TESTER)
    await container.users.administration.delete_user(TESTER, ADA)
    await _pass(owner, AFTER_HOLD_BACK)
    await container.users.erasure.erase_due(TESTER)

    with pytest.raises(UserNotFoundError):
        await container.users.administration.restore_user(TESTER, ADA)


async def test_suspension_by_an_admin_survives_what_upstream_says(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    await deliver(container, updated(ADA, at=1))
    await container.users.administration.suspend_user(TESTER, ADA, reason="fraud")

    for at, banned in ((2, True), (3, False), (4, False)):
        await deliver(container, updated(ADA, at=at, first_name=f"Name {at}", banned=banned))
    await container.users.administration.suspend_user(TESTER, ADA, reason="again")

    state = await state_of(owner, ADA)
    assert (state["status"], state["upstream_status"], state["suspended_reason"]) == ("suspended", "active", "fraud")
    refused = await journey.client.get("/users/me", headers=journey.headers_of(ADA))
    assert_problem(refused, 403, "user_inactive")


async def test_unsuspend_is_refused_while_upstream_bans_and_then_lifts_ours(container: Container) -> None:
    await deliver(container, updated(ADA, at=1, banned=True))
    await container.users.administration.suspend_user(TESTER, ADA, reason=None)

    with pytest.raises(ConflictError):
        await container.users.administration.unsuspend_user(TESTER, ADA)
    await deliver(container, updated(ADA, at=2, banned=False))
    still = await container.users.administration.get_user(TESTER, ADA)
    lifted = await container.users.administration.unsuspend_user(TESTER, ADA)

    assert (still.status, lifted.status, lifted.suspended_at) == ("suspended", "active", None)


async def test_every_change_of_status_is_audited_and_told_without_personal_values(
    journey: Journey, container: Container, owner: "Owner[asyncpg.Record]"
) -> None:
    personal = {"first_name": "Ada", "email": "ada@example.com"}
    await deliver(container, updated(ADA, at=1, **personal))
    await deliver(container, updated(ADA, at=2, **personal, banned=True))
    await deliver(container, updated(ADA, at=3, **personal))
    await deliver(container, updated(ADA, at=4, **personal, deprovisioned=True))
    await deliver(container, updated(ADA, at=5, **{**personal, "first_name": "Augusta"}, locked=True))
    await deliver(container, updated(ADA, at=6, **{**personal, "first_name": "Augusta"}))
    await container.users.administration.suspend_user(TESTER, ADA, reason="because of Ada")
    await container.users.administration.unsuspend_user(TESTER, ADA)

    audited = [
        (row["action"], row["status"])
        for row in await owner.fetch(
            "SELECT l.action, d.changes->>'status' AS status FROM audit_logs l"
            " LEFT JOIN audit_details d ON d.id = l.id WHERE l.user_id = $1 ORDER BY l.id",
            ADA,
        )
    ]
    assert audited == [
        ("user.created", None),
        ("user.suspended", '["active", "suspended"]'),
        ("user.updated", '["suspended", "active"]'),
        ("user.deactivated", '["active", "deactivated"]'),
        ("user.suspended", '["deactivated", "suspended"]'),
        ("user.updated", '["suspended", "active"]'),
        ("user.suspended", '["active", "suspended"]'),
        ("user.updated", '["suspended", "active"]'),
    ]
    only_id = {"user_id": ADA}
    assert await published(owner, ADA) == [
        ("user.created", only_id),
        ("user.suspended", only_id),
        ("user.updated", {**only_id, "changed": ["status"]}),
        ("user.deactivated", only_id),
        ("user.suspended", only_id),
        ("user.updated", {**only_id, "changed": ["first_name"]}),
        ("user.updated", {**only_id, "changed": ["status"]}),
        ("user.suspended", only_id),
        ("user.updated", {**only_id, "changed": ["status", "suspended_at", "suspended_reason"]}),
    ]


async def test_last_login_is_the_latest_and_each_session_counts_once(container: Container) -> None:
    await deliver(container, updated(ADA, at=1))
    starts = {"sess_latest": 3000, "sess_first": 1000, "sess_middle": 2000, "sess_long_ago": -31 * DAY}

    for session_id, at in [*starts.items(), ("sess_latest", 3000), ("sess_first", 1000)]:
        await deliver(container, signed_in(ADA, at=at, session_id=session_id))

    with use_context(RequestContext(request_id="test")):
        user = await container.users.administration.get_user(TESTER, ADA)
    latest = signed_in(ADA, at=3000)["data"]["created_at"]
    assert user.last_login_at is not None
    assert user.last_login_at.timestamp() * 1000 == latest
    assert user.sign_ins_last_30_days == 3
