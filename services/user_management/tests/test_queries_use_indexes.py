"""No statement reads a whole table that grows: every function in `queries/` is run, and its plans are looked at."""

import importlib
import inspect
import pkgutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import asyncpg
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from services.conftest import Servers
from services.user_management import queries
from services.user_management.database import driver_url, sqlalchemy_url
from services.user_management.enums import IntegrationStatus, TokenKind
from services.user_management.queries import (
    encryption_key,
    integration,
    job,
    oauth_flow,
    outbox,
    service_client,
    token_activity,
    token_read,
    token_refresh,
    user,
    user_search,
    webhook,
)
from services.user_management.queries.user_search import Position, UserFilter
from services.user_management.tests.query_plans import Indexes, Plan, generic_plan
from services.user_management.tests.scenes import Connected

NOW: Final = datetime(2024, 1, 1, tzinfo=UTC)
STEP: Final = timedelta(days=1)
NOBODY: Final = "user_nobody"
ID: Final = UUID(int=1)
HASH: Final = b"\0" * 32

READ_WHOLE: Final = {
    "encryption_key.usage": "encryption_keys has a row per key version, a handful; tokens are counted for an operator",
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
NEW_TOKEN: Final = token_refresh.NewToken(TokenKind.ACCESS, b"x", 1, 60)
NEW_USER: Final[dict[str, Any]] = {
    "id": NOBODY,
    "email_verified": False,
    "status": "active",
    "onboarding_completed": False,
    "local_fields": [],
    "version": 1,
    "created_at": NOW,
    "updated_at": NOW,
}
NEW_EVENT: Final[dict[str, Any]] = {
    "id": ID,
    "message_id": "msg_1",
    "event_type": "user.created",
    "payload": {},
    "received_at": NOW,
    "attempts": 0,
}
SLOT: Final = job.Slot(id=ID, owner=ID, slot=NOW, attempts=1, cursor=None)


async def _claim_and_release(connection: Connection, scene: Connected) -> None:
    held = await token_refresh.claim(connection, integration_id=UUID(scene.integration_id), token_version=1)
    assert held is not None
    await token_refresh.release(
        connection, held, failure="x", outcome_unknown=False, provider_failed=True, cool_down_seconds=1
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
    "encryption_key.usage": [lambda c, _: encryption_key.usage(c)],
    "integration.lock_active_user": [lambda c, _: integration.lock_active_user(c, NOBODY)],
    "integration.connect": [
        lambda c, s: integration.connect(c, user_id=s.user_id, provider="x", account=("1", None), scopes=())
    ],
    "integration.forget_refresh_token": [lambda c, _: integration.forget_refresh_token(c, ID)],
    "integration.has_moved": [lambda c, _: integration.has_moved(c, ID, 1)],
    "integration.has_refresh_token": [lambda c, _: integration.has_refresh_token(c, ID)],
    "integration.set_status": [_set_status],
    "job.claim": [lambda c, _: job.claim(c, job="x", period_seconds=1)],
    "job.finish": [lambda c, _: job.finish(c, SLOT)],
    "job.hand_on": [lambda c, _: job.hand_on(c, SLOT, None)],
    "job.fail": [lambda c, _: job.fail(c, SLOT, "x")],
    "job.prune": [lambda c, _: job.prune(c, days=1)],
    "job.ensure_log_partitions": [lambda c, _: job.ensure_log_partitions(c, months_ahead=1)],
    "oauth_flow.record_return": [lambda c, _: oauth_flow.record_return(c, ID, code=(b"x", 1), error=None)],
    "oauth_flow.consume": [
        lambda c, _: oauth_flow.consume(c, user_id=NOBODY, provider="x", flow_id=ID, state_hash=HASH)
    ],
    "oauth_flow.prune": [lambda c, _: oauth_flow.prune(c, hours=1)],
    "outbox.unpublished": [lambda c, _: outbox.unpublished(c, limit=1)],
    "outbox.mark_published": [lambda c, _: outbox.mark_published(c, [1, 2])],
    "service_client.authenticate": [lambda c, _: service_client.authenticate(c, key_id="x", secret_hash=HASH)],
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
    "token_refresh.claim": [_claim_and_release],
    "token_refresh.release": [_claim_and_release],
    "token_refresh.refresh_state": [lambda c, _: token_refresh.refresh_state(c, ID)],
    "token_refresh.advance": [lambda c, _: token_refresh.advance(c, integration_id=ID, token_version=1, scopes=None)],
    "token_refresh.put_token": [lambda c, s: token_refresh.put_token(c, UUID(s.integration_id), NEW_TOKEN)],
    "token_refresh.unsettled": [lambda c, _: token_refresh.unsettled(c, limit=1)],
    "token_refresh.due": [lambda c, _: token_refresh.due(c, within_seconds=1, period_seconds=1, limit=1)],
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
    "user.prune_sign_ins": [lambda c, _: user.prune_sign_ins(c, older_than=STEP)],
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
    "webhook.prune": [lambda c, _: webhook.prune(c, before=ID)],
}


def public_functions() -> set[str]:
    """`module.function` of everything in `queries/` that speaks to Postgres."""
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
    """A connection in a transaction that is rolled back, and the (statement, parameters) that it was sent."""
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
    """The same for the driver's statements."""
    sent: list[str] = []

    async def note(connection: Any) -> None:
        connection.add_query_logger(lambda logged: sent.append(logged.query))

    async with asyncpg.create_pool(driver_url(url), min_size=0, max_size=1, init=note) as pool:
        yield pool, sent


async def statements_of(name: str, url: str, scene: Connected) -> set[str]:
    """What the function sends, in all its runs."""
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


USERS: Final = """
INSERT INTO users (id, email, email_normalized, email_verified, first_name_normalized, last_name_normalized, status,
                   onboarding_completed, local_fields, version, created_at, updated_at, deleted_at)
SELECT 'user_' || n, 'x', md5('e' || n) || '@example.com', true, md5('f' || n), md5('l' || n),
       CASE WHEN n % 50 = 0 THEN 'suspended' ELSE 'active' END, false, '[]', 1,
       timestamptz '2024-01-01Z' + n * interval '1 minute', now(), CASE WHEN n % 10 = 0 THEN now() END
FROM generate_series(1, {rows}) AS n
"""
OTHER_TABLES: Final = """
INSERT INTO user_identities (issuer, subject, user_id, created_at)
SELECT 'x', id, id, now() FROM users;
INSERT INTO sign_ins (issuer, session_id, user_id, started_at)
SELECT 'x', id, id, created_at FROM users;
INSERT INTO integrations
    (id, user_id, provider, provider_account_id, is_primary, status, status_changed_at, granted_scopes, token_version,
     refresh_attempts, refresh_failures, connected_at, version, created_at, updated_at)
SELECT gen_random_uuid(), id, 'x', '1', true, 'active', now(), '[]', 1, 0, 0, now(), 1, now(), now() FROM users;
INSERT INTO encrypted_tokens (id, integration_id, kind, ciphertext, key_version, issued_at, expires_at)
SELECT gen_random_uuid(), id, kind, ''::bytea, 1, now(), now() + random() * interval '1 day'
FROM integrations, (VALUES ('access'), ('refresh')) AS kinds (kind) WHERE provider = 'x';
INSERT INTO webhook_events (id, source, message_id, event_type, payload, received_at, applied_at, subject, attempts)
SELECT gen_random_uuid(), 'x', id, 'user.created', '{}', now(), now(), id, 1 FROM users;
INSERT INTO outbox_events (id, event_type, subject, payload, occurred_at, published_at)
SELECT gen_random_uuid(), 'user.created', id, '{}', now(), now() FROM users;
INSERT INTO job_runs (id, job, slot, owner, lease_until, attempts, started_at, finished_at)
SELECT gen_random_uuid(), 'x', created_at, gen_random_uuid(), created_at, 1, created_at, created_at FROM users;
INSERT INTO oauth_flows
    (id, user_id, provider, state_hash, status, requested_scopes, redirect_uri, return_url, created_at, expires_at)
SELECT gen_random_uuid(), id, 'x', sha256(id::bytea), 'pending', '[]', 'x', 'x', created_at, created_at FROM users;
INSERT INTO erased_subjects (subject_hash, erased_at) SELECT sha256(id::bytea), now() FROM users;
INSERT INTO service_clients (id, name, permissions, created_at)
SELECT gen_random_uuid(), 'x-' || id, '[]', now() FROM users;
INSERT INTO service_keys (id, client_id, secret_hash, created_at)
SELECT left(md5(name), 12), id, sha256(name::bytea), now() FROM service_clients WHERE name ~ '^x-';
INSERT INTO service_grants (id, client_id, provider, reason_required, created_at)
SELECT gen_random_uuid(), id, 'x', false, now() FROM service_clients WHERE name ~ '^x-';
ANALYZE users, user_identities, sign_ins, integrations, encrypted_tokens, webhook_events, outbox_events, job_runs,
    oauth_flows, erased_subjects, service_clients, service_keys, service_grants
"""
ROWS: Final = 4000


@asynccontextmanager
async def filled(owner: "asyncpg.Connection[asyncpg.Record]") -> AsyncIterator[None]:
    """Rows in the tables that grow, gone afterwards: with none, every index is as good as another. Without scans of
    whole tables, which are right for what is small and stays small."""
    transaction = owner.transaction()
    await transaction.start()
    try:
        await owner.execute(USERS.format(rows=ROWS))
        await owner.execute(OTHER_TABLES)
        await owner.execute("SET LOCAL enable_seqscan = off")
        yield
    finally:
        await transaction.rollback()


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


# The planner left to itself


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
