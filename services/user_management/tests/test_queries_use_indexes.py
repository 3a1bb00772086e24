"""Tests that no statement reads a whole table that grows: every function in `queries/` is run, and the plans of its
statements are checked."""

import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from services.conftest import Servers
from services.user_management import queries
from services.user_management.core.integration_counts import misconfigured
from services.user_management.database import driver_url, sqlalchemy_url
from services.user_management.enums import DeliveryState, IntegrationStatus, ProviderState, RevocationState, TokenKind
from services.user_management.models import sign_ins
from services.user_management.queries import (
    diagnosis,
    due_refresh,
    encryption_key,
    integration,
    integration_counter,
    integration_health,
    job,
    oauth_flow,
    outbox,
    pruning,
    service_client,
    token_activity,
    token_read,
    token_read_batch,
    token_refresh,
    token_revocation,
    user,
    user_search,
    webhook,
    webhook_delivery,
    webhook_subscription,
)
from services.user_management.queries.rows import columns_of
from services.user_management.queries.user_rows import UserColumns
from services.user_management.queries.user_search import Position, UserFilter
from services.user_management.queries.webhook_delivery import ClaimedDelivery, FailedAttempt, NewDelivery, ReplayFilter
from services.user_management.tests.filled_tables import ROWS, USERS, filled
from services.user_management.tests.query_plans import Indexes, Plan, generic_plan
from services.user_management.tests.scenes import Connected

pytestmark = pytest.mark.slow

NOW: Final = datetime(2024, 1, 1, tzinfo=UTC)
STEP: Final = timedelta(days=1)
NOBODY: Final = "user_nobody"
ID: Final = UUID(int=1)
HASH: Final = b"\0" * 32

READ_WHOLE: Final = {
    "integration_counter.read_totals": "closed sets times providers times shards; their sum is what is asked for",
    "encryption_key.usage": "encryption_keys has a row per key version, a handful; tokens are counted for an operator",
    "encryption_key.backlog": "of key versions and webhook subscriptions there are a handful",
    "encryption_key.read_keys": "the same: every one of them",
    "encryption_key.lock_key": "the same: the last activation of any of them",
    "webhook_subscription.lock_listeners": "whoever is subscribed is told; there are a handful per service",
    "webhook_delivery.claim_due": "of the subscriptions, which are few; of the deliveries two for each of them",
    "service_client.live_keys": "keys are few; once a second at most, while an address guesses",
    "service_client.list_clients": "services are few, and an administrator wants to see all",
}
"""Functions that may read a table from end to end, and why."""

Connection = Any
"""An SQLAlchemy connection, or for the driver's statements a pool."""
Run = Callable[[Connection, Connected], Awaitable[object]]

TOKEN_QUERY: Final = token_read.TokenQuery(
    key_id="0" * 12,
    secret_hash=HASH,
    user=NOBODY,
    default_issuer="https://issuer.example",
    provider="google",
    provider_known=True,
    scopes=("a",),
    account=None,
    reason=None,
    demanded_seconds=None,
    default_seconds=60,
    request_id="-",
)
RENEWED: Final = encryption_key.Renewed(ID, b"x", b"y")
SECRET: Final = encryption_key.StoredSecret(ID, b"x", NOBODY, "x", "access", None, None, None)
NEW_TOKEN: Final = token_refresh.NewToken(TokenKind.ACCESS, b"x", 1, 60)
NEW_USER: Final[UserColumns] = {
    "id": NOBODY,
    "email_verified": False,
    "status": "active",
    "onboarding_completed": False,
    "local_fields": [],
    "version": 1,
    "created_at": NOW,
    "updated_at": NOW,
}
NEW_DELIVERY: Final = NewDelivery(ID, ID, ID, "user.created", 1, "{}")
CLAIMED: Final = ClaimedDelivery(
    **columns_of(NEW_DELIVERY),
    attempts=1,
    leased_until=NOW,
    url="https://hooks.example.com/",
    secret_ciphertext=b"x",
    secret_key_version=1,
    former_secret_ciphertext=None,
    former_secret_key_version=None,
    is_failing=False,
)
NEW_EVENT: Final = webhook.NewEvent(ID, "clerk", "msg_1", "user.created", "x", {}, NOW)
CONSENT: Final = integration.Consent("1", None, granted=(), requested=(), clock_skew_seconds=None)
SEALED_GRANT: Final = token_revocation.SealedTokens(
    token_revocation.SealedToken(TokenKind.ACCESS, b"x", 1), renewal=None, lifetime_seconds=None
)
DUE_REVOCATION: Final = token_revocation.DueRevocation(
    id=ID,
    integration_id=ID,
    user_id=NOBODY,
    provider="x",
    token=SEALED_GRANT.token,
    renewal=None,
    has_run_out=False,
    attempts=1,
    age_seconds=0,
    account_is_connected=False,
)
LIVE: Final = integration.LiveIntegration(ID, NOBODY, "x", "1", "active")
CANDIDATE: Final = integration_health.Candidate(
    id=ID,
    token_version=1,
    user_id=NOBODY,
    provider="x",
    last_probed_at=None,
    status="active",
    status_reason=None,
    ciphertext=b"x",
    key_version=1,
    expired=False,
    cooling=False,
    has_refresh_token=True,
)
SLOT: Final = job.Slot(id=ID, owner=ID, slot=NOW, attempts=1, cursor=None)


async def _claim_and_release(connection: Connection, scene: Connected) -> None:
    held = await token_refresh.claim(connection, integration_id=UUID(scene.integration_id), token_version=1)
    assert held is not None
    await token_refresh.renew(connection, held)
    await token_refresh.release(
        connection, held, token_refresh.Failure("x"), attempts=0, provider_failed=True, cool_down_seconds=1
    )


def _set_status(connection: Connection, _: Connected) -> Awaitable[object]:
    return integration.set_status(
        connection,
        integration_id=ID,
        token_version=1,
        status=IntegrationStatus.REVOKED,
        reason=None,
        from_statuses=[IntegrationStatus.ACTIVE],
    )


def _due_page(after: integration_health.Place) -> Run:
    return lambda c, _: integration_health.due_page(c, after=after, began=NOW, unwell=["y"], idle_seconds=1, page=10)


def _search(wanted: UserFilter, after: Position | None = None) -> Run:
    return lambda c, _: user_search.find_users(c, wanted, after=after, limit=51)


EVERYTHING: Final = UserFilter(status="active", created_after=NOW, created_before=NOW)
SEARCHES: Final[dict[str, Run]] = {
    "newest": _search(UserFilter()),
    "newest, later page": _search(UserFilter(), Position(NOW, NOBODY)),
    "status": _search(UserFilter(status="suspended")),
    "everything": _search(EVERYTHING, Position(NOW, NOBODY)),
    "deleted": _search(UserFilter(deleted=True), Position(NOW, NOBODY)),
    "prefix": _search(UserFilter(email_prefix="ada", name_prefix="ada", status="active", created_after=NOW)),
    "prefix, later page": _search(UserFilter(email_prefix="a", name_prefix="a"), Position("ada", NOBODY)),
}

RUNS: Final[dict[str, Sequence[Run]]] = {
    "integration_counter.add": [lambda c, _: integration_counter.add(c, {misconfigured("x"): 1})],
    "integration_counter.read_totals": [lambda c, _: integration_counter.read_totals(c)],
    "diagnosis.read_subject": [
        lambda c, _: diagnosis.read_subject(c, user_id=NOBODY, provider="x", account=None),
        lambda c, _: diagnosis.read_subject(c, user_id=NOBODY, provider="x", account="y"),
    ],
    "diagnosis.latest_reads": [lambda c, _: diagnosis.latest_reads(c, user_id=NOBODY, provider="x")],
    "diagnosis.count_connects": [lambda c, _: diagnosis.count_connects(c, user_id=NOBODY, integration_id=ID)],
    "diagnosis.same_account": [
        lambda c, _: diagnosis.same_account(c, provider="x", account_id="y", integration_id=ID, since=NOW)
    ],
    "diagnosis.last_revocation": [lambda c, _: diagnosis.last_revocation(c, ID)],
    "diagnosis.recent_flows": [lambda c, _: diagnosis.recent_flows(c, user_id=NOBODY, provider="x", since=NOW)],
    "encryption_key.usage": [lambda c, _: encryption_key.usage(c)],
    "encryption_key.backlog": [lambda c, _: encryption_key.backlog(c)],
    "encryption_key.secrets_under": [
        lambda c, _: encryption_key.secrets_under(c, encryption_key.TOKENS, 1, after=ID, limit=1),
        lambda c, _: encryption_key.secrets_under(c, encryption_key.REVOCATIONS, 1, after=ID, limit=1),
    ],
    "encryption_key.replace_secrets": [
        lambda c, _: encryption_key.replace_secrets(c, encryption_key.TOKENS, [RENEWED], version=1)
    ],
    "encryption_key.lock_key": [lambda c, _: encryption_key.lock_key(c, 1)],
    "encryption_key.retire_key": [lambda c, _: encryption_key.retire_key(c, 9)],
    "encryption_key.discard_secrets": [
        lambda c, _: encryption_key.discard_secrets(c, encryption_key.TOKENS, [SECRET], version=1),
        lambda c, _: encryption_key.discard_secrets(c, encryption_key.REVOCATIONS, [SECRET], version=1),
    ],
    "encryption_key.read_keys": [lambda c, _: encryption_key.read_keys(c)],
    "encryption_key.add_key": [lambda c, _: encryption_key.add_key(c, 9, kdf="x", canary=b"x")],
    "encryption_key.activate_key": [lambda c, _: encryption_key.activate_key(c, 9)],
    "encryption_key.yield_active": [lambda c, _: encryption_key.yield_active(c, 9)],
    "integration_health.due_page": [
        _due_page(integration_health.Place()),
        _due_page(integration_health.Place(NOW, ID)),
    ],
    "integration_health.find_candidate": [lambda c, _: integration_health.find_candidate(c, ID)],
    "integration_health.note_accepted": [lambda c, _: integration_health.note_accepted(c, CANDIDATE, whole=True)],
    "integration_health.note_refused": [
        lambda c, _: integration_health.note_refused(c, CANDIDATE, failure="x", detail=None)
    ],
    "integration_health.note_probed": [lambda c, _: integration_health.note_probed(c, ID)],
    "integration_health.read_states": [lambda c, _: integration_health.read_states(c, ["x"])],
    "integration_health.require": [lambda c, _: integration_health.require(c, "x", ["a"], hold_seconds=1)],
    "integration_health.set_state": [
        lambda c, _: integration_health.set_state(c, "x", ProviderState.DOWN, reason=None)
    ],
    "integration_health.set_enforced": [lambda c, _: integration_health.set_enforced(c, "x", ["a"])],
    "integration_health.holders": [
        lambda c, _: integration_health.holders(c, "x", after=("", integration_health.FIRST), limit=1)
    ],
    "integration_health.lacking": [lambda c, _: integration_health.lacking(c, "x", after=ID, limit=1)],
    "integration.lock_active_user": [lambda c, _: integration.lock_active_user(c, NOBODY)],
    "integration.connect": [
        lambda c, s: integration.connect(c, user_id=s.user_id, provider="x", consent=CONSENT),
    ],
    "integration.list_shown": [lambda c, _: integration.list_shown(c, NOBODY)],
    "integration.find_shown": [
        lambda c, _: integration.find_shown(c, user_id=NOBODY, provider="x", account=None),
        lambda c, _: integration.find_shown(c, user_id=NOBODY, provider="x", account="y"),
    ],
    "integration.live_of_user": [lambda c, _: integration.live_of_user(c, NOBODY)],
    "integration.set_metadata": [lambda c, _: integration.set_metadata(c, ID, {})],
    "integration.make_primary": [
        lambda c, _: integration.make_primary(c, user_id=NOBODY, provider="x", integration_id=ID)
    ],
    "integration.disconnect": [lambda c, _: integration.disconnect(c, LIVE, reason="x")],
    "integration.forget_refresh_token": [lambda c, _: integration.forget_refresh_token(c, ID)],
    "integration.has_ended": [lambda c, _: integration.has_ended(c, ID)],
    "integration.has_moved": [lambda c, _: integration.has_moved(c, ID, 1)],
    "integration.has_refresh_token": [lambda c, _: integration.has_refresh_token(c, ID)],
    "integration.set_status": [_set_status],
    "job.claim": [lambda c, _: job.claim(c, job="x", period_seconds=1)],
    "job.finish": [lambda c, _: job.finish(c, SLOT)],
    "job.hand_on": [lambda c, _: job.hand_on(c, SLOT, None)],
    "job.fail": [lambda c, _: job.fail(c, SLOT, "x")],
    "job.database_now": [lambda c, _: job.database_now(c)],
    "job.prune": [lambda c, _: job.prune(c, before=NOW, limit=1)],
    "job.ensure_log_partitions": [lambda c, _: job.ensure_log_partitions(c, months_ahead=1)],
    "oauth_flow.make_room": [lambda c, _: oauth_flow.make_room(c, user_id=NOBODY, provider="x")],
    "oauth_flow.record_return": [lambda c, _: oauth_flow.record_return(c, ID, code=(b"x", 1), error=None)],
    "oauth_flow.consume": [
        lambda c, _: oauth_flow.consume(c, user_id=NOBODY, provider="x", flow_id=ID, state_hash=HASH)
    ],
    "oauth_flow.prune": [lambda c, _: oauth_flow.prune(c, before=NOW, limit=1)],
    "outbox.unpublished": [lambda c, _: outbox.unpublished(c, limit=1)],
    "outbox.mark_published": [lambda c, _: outbox.mark_published(c, [1, 2])],
    "outbox.prune": [lambda c, _: outbox.prune(c, before=NOW, limit=1)],
    "pruning.delete_batch": [lambda c, _: pruning.delete_batch(c, sign_ins, sign_ins.c.started_at < NOW, limit=1)],
    "service_client.authenticate": [lambda pool, _: service_client.authenticate(pool, key_id="x", secret_hash=HASH)],
    "service_client.live_keys": [lambda pool, _: service_client.live_keys(pool)],
    "service_client.lock_client": [lambda c, _: service_client.lock_client(c, "x")],
    "service_client.list_clients": [
        lambda c, _: service_client.list_clients(c, None),
        lambda c, _: service_client.list_clients(c, "x"),
    ],
    "service_client.list_keys": [lambda c, _: service_client.list_keys(c, [ID])],
    "service_client.list_grants": [lambda c, _: service_client.list_grants(c, [ID])],
    "service_client.end_live_keys": [lambda c, _: service_client.end_live_keys(c, ID, overlap_seconds=1)],
    "service_client.revoke_keys": [lambda c, _: service_client.revoke_keys(c, ID, key_id="x")],
    "service_client.set_permissions": [lambda c, _: service_client.set_permissions(c, ID, [])],
    "service_client.set_disabled": [lambda c, _: service_client.set_disabled(c, ID, disabled=True)],
    "service_client.record_use": [lambda c, _: service_client.record_use(c, "x")],
    "token_activity.token_reads": [
        lambda c, _: token_activity.token_reads(c, user_id=NOBODY, provider="x", before=None, limit=1),
        lambda c, _: token_activity.token_reads(c, user_id=NOBODY, provider="x", before=ID, limit=1),
    ],
    "token_read.read_token": [lambda pool, _: token_read.read_token(pool, TOKEN_QUERY, timeout_seconds=2)],
    "token_read_batch.read_tokens": [
        lambda pool, _: token_read_batch.read_tokens(pool, [TOKEN_QUERY] * 3, timeout_seconds=2)
    ],
    "token_revocation.request": [
        lambda c, _: token_revocation.request(c, ID, preferred=TokenKind.REFRESH, possible=True)
    ],
    "token_revocation.add": [
        lambda c, s: token_revocation.add(c, token_revocation.Origin(ID, s.user_id, "x", "1"), SEALED_GRANT)
    ],
    "token_revocation.hold_back": [lambda c, _: token_revocation.hold_back(c, user_id=NOBODY, provider="x", seconds=1)],
    "token_revocation.renew": [lambda c, _: token_revocation.renew(c, DUE_REVOCATION, SEALED_GRANT)],
    "token_revocation.supersede": [lambda c, _: token_revocation.supersede(c, ID)],
    "token_revocation.claim_due": [lambda c, _: token_revocation.claim_due(c, limit=1, lease_seconds=1)],
    "token_revocation.finish": [lambda c, _: token_revocation.finish(c, ID, RevocationState.DONE)],
    "token_revocation.postpone": [lambda c, _: token_revocation.postpone(c, ID, seconds=1, failure="x")],
    "token_revocation.prune": [lambda c, _: token_revocation.prune(c, before=NOW, limit=1)],
    "due_refresh.count_due": [lambda c, _: due_refresh.count_due(c, within_seconds=1)],
    "token_refresh.claim": [_claim_and_release],
    "token_refresh.renew": [_claim_and_release],
    "token_refresh.release": [_claim_and_release],
    "token_refresh.refresh_state": [lambda c, _: token_refresh.refresh_state(c, ID)],
    "token_refresh.advance": [
        lambda c, _: token_refresh.advance(c, integration_id=ID, token_version=1, attempts=1, scopes=None)
    ],
    "token_refresh.put_token": [lambda c, s: token_refresh.put_token(c, UUID(s.integration_id), NEW_TOKEN)],
    "due_refresh.unsettled": [lambda c, _: due_refresh.unsettled(c, after=ID, limit=1)],
    "due_refresh.due": [
        lambda c, _: due_refresh.due(
            c, within_seconds=1, period_seconds=1, after=due_refresh.DuePosition(NOW, ID), limit=1
        )
    ],
    "user.read_identity": [lambda pool, _: user.read_identity(pool, issuer="x", subject="x")],
    "user.read_profile": [lambda pool, _: user.read_profile(pool, NOBODY)],
    "user.read_user": [lambda c, _: user.read_user(c, NOBODY)],
    "user.read_users": [lambda c, _: user.read_users(c, [NOBODY, "user_other"])],
    "user.read_upstream_state": [lambda c, _: user.read_upstream_state(c, issuer="x", subjects=["x", "y"])],
    "user.live_subjects": [lambda c, _: user.live_subjects(c, issuer="x", after="x", limit=1)],
    "user.insert_user": [lambda c, _: user.insert_user(c, NEW_USER, issuer="x", subject="x")],
    "user.lock_user": [lambda c, _: user.lock_user(c, NOBODY)],
    "user.lock_identity": [lambda c, _: user.lock_identity(c, issuer="x", subject="x")],
    "user.update_user": [lambda c, _: user.update_user(c, NOBODY, {"version": 2})],
    "user.note_activity": [lambda c, _: user.note_activity(c, NOBODY, step=STEP)],
    "user.record_sign_in": [
        lambda c, s: user.record_sign_in(c, user_id=s.user_id, issuer="x", session_id="x", started_at=NOW)
    ],
    "user.count_sign_ins": [lambda c, _: user.count_sign_ins(c, NOBODY, window=STEP)],
    "user.prune_sign_ins": [lambda c, _: user.prune_sign_ins(c, before=NOW, limit=1)],
    "user.is_erased": [lambda c, _: user.is_erased(c, [HASH])],
    "user.insert_tombstone": [lambda c, _: user.insert_tombstone(c, HASH)],
    "user.lock_due_for_erasure": [lambda c, _: user.lock_due_for_erasure(c, hold_back=STEP)],
    "user.identities_of": [lambda c, _: user.identities_of(c, NOBODY)],
    "user.delete_user": [lambda c, _: user.delete_user(c, NOBODY)],
    "user.erase_audit_details": [lambda c, _: user.erase_audit_details(c, NOBODY)],
    "user_search.find_users": list(SEARCHES.values()),
    "webhook.insert_event": [lambda c, _: webhook.insert_event(c, NEW_EVENT)],
    "webhook.mark_applied": [lambda c, _: webhook.mark_applied(c, ID)],
    "webhook.mark_failed": [lambda c, _: webhook.mark_failed(c, ID, error="x", retry_in=STEP)],
    "webhook.forget_payload": [lambda c, _: webhook.forget_payload(c, ID)],
    "webhook.forget_payloads": [lambda c, _: webhook.forget_payloads(c, "x")],
    "webhook.lock_due_event": [lambda c, _: webhook.lock_due_event(c)],
    "webhook.is_applied": [lambda c, _: webhook.is_applied(c, source="clerk", message_id="msg_1")],
    "webhook.lock_event": [lambda c, _: webhook.lock_event(c, ID)],
    "webhook.count_attempt": [lambda c, _: webhook.count_attempt(c, ID)],
    "webhook.list_events": [
        lambda c, _: webhook.list_events(c, failed_only=False, subject=None, limit=1),
        lambda c, _: webhook.list_events(c, failed_only=True, subject=None, limit=1),
        lambda c, _: webhook.list_events(c, failed_only=False, subject="x", limit=1),
    ],
    "webhook.failed_events": [lambda c, _: webhook.failed_events(c)],
    "webhook.read_event": [lambda c, _: webhook.read_event(c, ID)],
    "webhook.prune": [lambda c, _: webhook.prune(c, before=NOW, limit=1)],
    "webhook_delivery.insert": [lambda c, _: webhook_delivery.insert(c, [NEW_DELIVERY])],
    "webhook_delivery.claim_due": [
        lambda c, _: webhook_delivery.claim_due(c, admins=["x"], busy=[ID], healthy_only=True, lease_seconds=1)
    ],
    "webhook_delivery.hasten_pending": [
        lambda c, _: webhook_delivery.hasten_pending(c, ID, event_type="x", lease_seconds=30)
    ],
    "webhook_delivery.mark_delivered": [lambda c, _: webhook_delivery.mark_delivered(c, ID, status=200)],
    "webhook_delivery.mark_failed": [
        lambda c, _: webhook_delivery.mark_failed(c, CLAIMED, FailedAttempt(500, "x", 5.0))
    ],
    "webhook_delivery.postpone": [lambda c, _: webhook_delivery.postpone(c, CLAIMED, error="x", seconds=1)],
    "webhook_delivery.park": [lambda c, _: webhook_delivery.park(c, [ID])],
    "webhook_delivery.unpark": [lambda c, _: webhook_delivery.unpark(c, [ID])],
    "webhook_delivery.list_deliveries": [
        lambda c, _: webhook_delivery.list_deliveries(c, ID, state=None, before=None, limit=1),
        lambda c, _: webhook_delivery.list_deliveries(c, ID, state=DeliveryState.FAILED, before=9, limit=1),
    ],
    "webhook_delivery.requeue": [lambda c, _: webhook_delivery.requeue(c, ID, ReplayFilter(since=NOW), limit=1)],
    "webhook_delivery.prune": [lambda c, _: webhook_delivery.prune(c, before=NOW, limit=1)],
    "webhook_subscription.lock_creation": [lambda c, _: webhook_subscription.lock_creation(c)],
    "webhook_subscription.count_owned": [
        lambda c, _: webhook_subscription.count_owned(c, client_id=None, created_by="x"),
        lambda c, _: webhook_subscription.count_owned(c, client_id=ID, created_by="x"),
    ],
    "webhook_subscription.find": [lambda c, _: webhook_subscription.find(c, ID, owner="x", admins=["x"])],
    "webhook_subscription.lock": [lambda c, _: webhook_subscription.lock(c, ID, owner=None, admins=["x"])],
    "webhook_subscription.list_owned": [
        lambda c, _: webhook_subscription.list_owned(c, owner=None, admins=["x"], before=None, limit=1),
        lambda c, _: webhook_subscription.list_owned(c, owner="x", admins=["x"], before=ID, limit=1),
    ],
    "webhook_subscription.update": [lambda c, _: webhook_subscription.update(c, ID, {"version": 2})],
    "webhook_subscription.delete": [lambda c, _: webhook_subscription.delete(c, ID)],
    "webhook_subscription.lock_listeners": [lambda c, _: webhook_subscription.lock_listeners(c, admins=["x"])],
    "webhook_subscription.set_last_sequence": [lambda c, _: webhook_subscription.set_last_sequence(c, {ID: 1})],
    "webhook_subscription.note_failure": [lambda c, _: webhook_subscription.note_failure(c, ID, patience_seconds=1)],
    "webhook_subscription.note_success": [lambda c, _: webhook_subscription.note_success(c, ID)],
    "webhook_subscription.replace_secret": [
        lambda c, _: webhook_subscription.replace_secret(c, ID, (b"x", 1), overlap=STEP)
    ],
    "webhook_subscription.disable": [lambda c, _: webhook_subscription.disable(c, ID, reason="x")],
}


def public_functions() -> set[str]:
    """Return `module.function` for every public function in `queries/` that sends statements to Postgres."""
    modules = [
        importlib.import_module(f"{queries.__name__}.{found.name}") for found in pkgutil.iter_modules(queries.__path__)
    ]
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in modules
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction)
        if function.__module__ == module.__name__ and not name.startswith("_")
    }


def test_every_function_is_run() -> None:
    assert RUNS.keys() == public_functions()


@asynccontextmanager
async def recording(url: str) -> AsyncIterator[tuple[AsyncConnection, list[tuple[str, Any]]]]:
    """Open a connection in a transaction that is rolled back, and record the (statement, parameters) sent on it."""
    engine = create_async_engine(sqlalchemy_url(url))
    sent: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, _context: object, _many: object) -> None:
        sent.append((statement, parameters))

    sa.event.listen(engine.sync_engine, "before_cursor_execute", note)
    try:
        async with engine.connect() as connection:
            yield connection, sent
            await connection.rollback()
    finally:
        await engine.dispose()


@asynccontextmanager
async def recording_pool(url: str) -> AsyncIterator[tuple["asyncpg.Pool[asyncpg.Record]", list[str]]]:
    """Open a driver's pool of one connection, and record the statements sent on it."""
    sent: list[str] = []

    async def note(connection: Any) -> None:
        connection.add_query_logger(lambda logged: sent.append(logged.query))

    async with asyncpg.create_pool(driver_url(url), min_size=0, max_size=1, init=note) as pool:
        yield pool, sent


async def statements_of(name: str, url: str, scene: Connected) -> set[str]:
    """Return the different statements that the function `name` (`module.function`) sends in all its RUNS, on a
    connection to `url`."""
    module, _, function = name.partition(".")
    signature = inspect.signature(getattr(importlib.import_module(f"{queries.__name__}.{module}"), function))
    if next(iter(signature.parameters)) == "pool":
        async with recording_pool(url) as (pool, queries_sent):
            for run in RUNS[name]:
                await run(pool, scene)
        return {query for query in queries_sent if not query.lstrip().startswith("SELECT pg_advisory_unlock_all")}
    async with recording(url) as (connection, sent):
        for run in RUNS[name]:
            with suppress(IntegrityError):
                await run(connection, scene)
    return {statement for statement, _ in sent}


async def test_no_statement_reads_a_whole_table(
    connected: Connected, servers: Servers, database_name: str, owner: "asyncpg.Connection[asyncpg.Record]"
) -> None:
    url = servers.owner_url(database_name)
    indexes = await Indexes.read(owner)
    statements = {name: await statements_of(name, url, connected) for name in sorted(RUNS)}

    async with filled(owner):
        plans = {
            name: [await generic_plan(owner, statement) for statement in sent] for name, sent in statements.items()
        }

    assert [name for name, sent in statements.items() if not sent] == []
    read_whole = {
        name: tables
        for name, found in plans.items()
        if (tables := set().union(*(plan.tables_read_whole(indexes, many=ROWS // 2) for plan in found)))
    }
    assert {name: tables for name, tables in read_whole.items() if name not in READ_WHOLE} == {}
    assert read_whole.keys() == READ_WHOLE.keys(), "an exception that is no longer needed"
    for name in ("webhook_delivery.claim_due", "webhook_subscription.lock_listeners"):
        assert read_whole[name] == {"webhook_subscriptions"}, "owners are looked up one by one"


# The plans that the planner chooses for a search in many rows


LIMIT: Final = 51
MIDDLE: Final = NOW + timedelta(minutes=10_000)
PAGES: Final[dict[str, tuple[UserFilter, Position | None]]] = {
    "first page": (UserFilter(), None),
    "later page": (UserFilter(), Position(MIDDLE, "user_10000")),
    "prefix": (UserFilter(email_prefix="a", name_prefix="a"), None),
    "prefix, later page": (UserFilter(email_prefix="a", name_prefix="a"), Position("a8", "user_1")),
    "long prefix": (UserFilter(email_prefix="abc", name_prefix="abc"), None),
    "e-mail": (UserFilter(email_prefix="abc@"), None),
    "status": (UserFilter(status="suspended"), None),
    "status, later page": (UserFilter(status="suspended"), Position(MIDDLE, "user_10000")),
    "commonest status": (UserFilter(status="active"), None),
    "days": (UserFilter(created_after=MIDDLE, created_before=MIDDLE + STEP), None),
    "deleted": (UserFilter(deleted=True), None),
}


async def test_search_of_many_users_looks_at_a_page_of_them(
    clean_database: None, servers: Servers, database_name: str
) -> None:
    looked_at: dict[str, tuple[list[str], int]] = {}

    async with recording(servers.owner_url(database_name)) as (connection, sent):
        await connection.exec_driver_sql(USERS.format(rows=20_000))
        await connection.exec_driver_sql("ANALYZE users")
        for name, (wanted, after) in PAGES.items():
            await user_search.find_users(connection, wanted, after=after, limit=LIMIT)
            statement, parameters = sent[-1]
            explained = await connection.exec_driver_sql(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", parameters)
            plan = Plan.of_json(explained.scalar_one())
            whole = [node["Node Type"] for node in plan.nodes() if node["Node Type"] == "Seq Scan"]
            looked_at[name] = (whole, plan.rows_looked_at())

    # A prefix asks three indexes, and fetches the rows of at most three pages.
    excessive = {name: found for name, found in looked_at.items() if found[0] or found[1] > 4 * LIMIT}
    assert excessive == {}
