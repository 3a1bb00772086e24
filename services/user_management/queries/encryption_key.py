"""Where ciphertexts lie, and which key versions they are under. A new place for one is a new entry in PLACES."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.enums import RevocationState
from services.user_management.models import (
    EncryptedToken,
    EncryptionKey,
    Integration,
    OAuthFlow,
    TokenRevocation,
    WebhookSubscription,
)

_keys = EncryptionKey.ormar_config.table
_tokens = EncryptedToken.ormar_config.table
_integrations = Integration.ormar_config.table
_revocations = TokenRevocation.ormar_config.table
_subscriptions = WebhookSubscription.ormar_config.table
_flows = OAuthFlow.ormar_config.table

Column = sa.ColumnElement[Any]
_NONE: Final[Column] = sa.literal("")


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A column of ciphertexts with its key version, and the parts of the binding that they were encrypted with."""

    name: str
    """As the operator reads it, in the plural."""
    table: sa.Table
    ciphertext: sa.Column[Any]
    key_version: sa.Column[Any]
    purpose: str
    holder: Column
    """`place` of the binding."""
    user_id: Column = field(default=_NONE)
    kind: Column = field(default=_NONE)
    joined: sa.FromClause | None = None
    """The table with those that hold parts of the binding."""
    connection: tuple[Column, Column, Column] | None = None
    """Id, fence and status of the connection that a value which cannot be read costs its user."""
    discard: Callable[[Sequence[UUID]], sa.Update | sa.Delete] | None = None
    """Gets rid of values that nobody can read; None: a person has to."""


TOKENS: Final = Place(
    name="tokens",
    table=_tokens,
    ciphertext=_tokens.c.ciphertext,
    key_version=_tokens.c.key_version,
    purpose="token",
    holder=_tokens.c.integration_id,
    user_id=_integrations.c.user_id,
    kind=_tokens.c.kind,
    joined=_tokens.join(_integrations, _integrations.c.id == _tokens.c.integration_id),
    connection=(_integrations.c.id, _integrations.c.token_version, _integrations.c.status),
    discard=lambda ids: sa.delete(_tokens).where(_tokens.c.id.in_(ids)),
)
REVOCATIONS: Final = Place(
    name="revocations",
    table=_revocations,
    ciphertext=_revocations.c.ciphertext,
    key_version=_revocations.c.key_version,
    purpose="token",
    holder=_revocations.c.integration_id,
    user_id=_revocations.c.user_id,
    kind=_revocations.c.kind,
    discard=lambda ids: (
        sa.update(_revocations)
        .where(_revocations.c.id.in_(ids))
        .values(
            ciphertext=None,
            key_version=None,
            state=RevocationState.IMPOSSIBLE.value,
            next_attempt_at=None,
            last_failure="token_unreadable",
            finished_at=sa.func.now(),
        )
    ),
)
WEBHOOK_SECRETS: Final = Place(
    name="webhook secrets",
    table=_subscriptions,
    ciphertext=_subscriptions.c.secret_ciphertext,
    key_version=_subscriptions.c.secret_key_version,
    purpose="webhook_secret",
    holder=_subscriptions.c.id,
)
FORMER_WEBHOOK_SECRETS: Final = Place(
    name="former webhook secrets",
    table=_subscriptions,
    ciphertext=_subscriptions.c.former_secret_ciphertext,
    key_version=_subscriptions.c.former_secret_key_version,
    purpose="webhook_secret",
    holder=_subscriptions.c.id,
    discard=lambda ids: (
        sa.update(_subscriptions)
        .where(_subscriptions.c.id.in_(ids))
        .values(former_secret_ciphertext=None, former_secret_key_version=None, former_secret_until=None)
    ),
)
PLACES: Final = (TOKENS, REVOCATIONS, WEBHOOK_SECRETS, FORMER_WEBHOOK_SECRETS)
CODES: Final = "codes"
"""Authorization codes are not re-encrypted: they live for ten minutes. Until then they count."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key version, and what is under it, by the name of the place: how many, or whether any."""

    version: int
    state: str
    kdf: str
    canary: bytes
    held_by: dict[str, int]


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A ciphertext with its binding."""

    id: UUID
    ciphertext: bytes
    user_id: str
    holder: str
    kind: str
    integration_id: UUID | None
    token_version: int | None
    status: str | None


@dataclass(frozen=True, slots=True)
class Renewed:
    """A ciphertext that is to take the place of exactly that one."""

    id: UUID
    former: bytes
    ciphertext: bytes


async def usage(connection: AsyncConnection) -> list[KeyRow]:
    """Every key version with the numbers of ciphertexts under it, ascending."""
    counts = [
        sa.select(sa.func.count()).where(place.key_version == _keys.c.version).scalar_subquery() for place in PLACES
    ]
    codes = sa.select(sa.func.count()).where(
        _flows.c.code_key_version == _keys.c.version, _flows.c.expires_at > sa.func.now()
    )
    return await _key_rows(connection, [*counts, codes.scalar_subquery()])


async def backlog(connection: AsyncConnection) -> list[KeyRow]:
    """Every key version with whether anything (0 or 1) that can be re-encrypted is under it, ascending."""
    found = [sa.cast(sa.exists().where(place.key_version == _keys.c.version), sa.Integer) for place in PLACES]
    return await _key_rows(connection, found)


async def _key_rows(connection: AsyncConnection, numbers: Sequence[Column]) -> list[KeyRow]:
    names = [*(place.name for place in PLACES), CODES]
    columns = [_keys.c.version, _keys.c.state, _keys.c.kdf, _keys.c.canary]
    rows = await connection.execute(sa.select(*columns, *numbers).order_by(_keys.c.version))
    return [KeyRow(row[0], row[1], row[2], row[3], dict(zip(names, row[len(columns) :], strict=False))) for row in rows]


async def secrets_under(
    connection: AsyncConnection, place: Place, version: int, *, after: UUID, limit: int
) -> list[StoredSecret]:
    """The next ciphertexts of `place` under `version`, in the order of their ids."""
    integration_id, token_version, status = place.connection or (sa.null(), sa.null(), sa.null())
    key = place.table.c.id
    select = (
        sa.select(key, place.ciphertext, place.user_id, place.holder, place.kind, integration_id, token_version, status)
        .select_from(place.table if place.joined is None else place.joined)
        .where(place.key_version == version, key > after)
        .order_by(key)
        .limit(limit)
    )
    rows = await connection.execute(select)
    return [StoredSecret(row[0], row[1], row[2], str(row[3]), row[4], row[5], row[6], row[7]) for row in rows]


async def replace_secrets(
    connection: AsyncConnection, place: Place, renewed: Sequence[Renewed], *, version: int
) -> int:
    """Put each new ciphertext where exactly its former one still is; how many were. One statement.

    Who is writing a row at this moment wins: rows are not waited for, so this statement is in nobody's deadlock.
    """
    key = place.table.c.id
    given = (
        sa.func.unnest(
            _array([row.id for row in renewed], postgresql.UUID()),
            _array([row.former for row in renewed], postgresql.BYTEA()),
            _array([row.ciphertext for row in renewed], postgresql.BYTEA()),
        )
        .table_valued(
            sa.column("id", postgresql.UUID()),
            sa.column("former", postgresql.BYTEA()),
            sa.column("ciphertext", postgresql.BYTEA()),
        )
        .render_derived(name="given")
    )
    unchanged = (
        sa.select(given.c.id, given.c.ciphertext)
        .join(place.table, sa.and_(key == given.c.id, place.ciphertext == given.c.former))
        .with_for_update(of=place.table, key_share=True, skip_locked=True)
        .cte("unchanged")
    )
    update = (
        sa.update(place.table)
        .where(key == unchanged.c.id)
        .values({place.ciphertext.name: unchanged.c.ciphertext, place.key_version.name: version})
    )
    return int((await connection.execute(update)).rowcount)


def _array(values: Sequence[object], item_type: sa.types.TypeEngine[Any]) -> Column:
    return sa.bindparam(None, list(values), type_=postgresql.ARRAY(item_type))


async def lock_key(connection: AsyncConnection, version: int) -> tuple[str, float] | None:
    """State of a key version, and the seconds since another became the active one; None where there is no such version.

    Waits for, and holds up, every transaction that stores something under it: their foreign keys lock it too.
    """
    since = sa.select(sa.func.max(_keys.c.activated_at)).scalar_subquery()
    elapsed = sa.cast(sa.extract("epoch", sa.func.now() - since), sa.Float)
    select = sa.select(_keys.c.state, elapsed).where(_keys.c.version == version).with_for_update()
    row = (await connection.execute(select)).one_or_none()
    return None if row is None else (row[0], row[1])


async def retire_key(connection: AsyncConnection, version: int) -> None:
    """Never to be used again."""
    values = {"state": "retired", "retired_at": sa.func.now()}
    await connection.execute(sa.update(_keys).where(_keys.c.version == version).values(**values))


async def discard_secrets(connection: AsyncConnection, place: Place, ids: Sequence[UUID], *, version: int) -> int:
    """Get rid of ciphertexts that nobody can read and that are still under `version`; how many there were.

    None are where it takes a person to decide.
    """
    if place.discard is None:
        return 0
    return int((await connection.execute(place.discard(ids).where(place.key_version == version))).rowcount)
