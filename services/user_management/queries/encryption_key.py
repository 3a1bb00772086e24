"""Statements on key versions, and on what is encrypted under them. A key version is the number of one encryption key;
the key itself is not in the database.

A new column of ciphertexts needs an entry in PLACES; otherwise its rows are neither counted nor re-encrypted.
Authorization codes alone have none: they are counted (CODES) and expire.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.enums import RevocationState, TokenKind
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
    """A column of ciphertexts with the column of their key versions, and the parts of their binding: what a ciphertext
    belongs to. It can be decrypted only with the binding with which it was encrypted."""

    name: str
    """What the values are called in messages to the operator, in the plural."""
    table: sa.Table
    ciphertext: sa.Column[Any]
    key_version: sa.Column[Any]
    purpose: str
    holder: Column
    """The expression for the binding's `place`, the id of the integration or subscription."""
    user_id: Column = field(default=_NONE)
    kind: Column = field(default=_NONE)
    joined: sa.FromClause | None = None
    """The table joined with others that hold parts of the binding; None: no other is needed."""
    integration: tuple[Column, Column, Column] | None = None
    """Id, fence (`token_version`) and status of the integration that stops working if the value cannot be decrypted;
    None: there is no such integration."""
    discard: sa.Update | sa.Delete | None = None
    """The statement that removes values which cannot be decrypted, to be narrowed to certain rows; None: such values
    are never removed, since a person has to decide."""


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
    integration=(_integrations.c.id, _integrations.c.token_version, _integrations.c.status),
    discard=sa.delete(_tokens),
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
    discard=sa.update(_revocations).values(
        ciphertext=None,
        key_version=None,
        refresh_ciphertext=None,
        refresh_key_version=None,
        state=RevocationState.IMPOSSIBLE.value,
        provider_account_id="",
        next_attempt_at=None,
        lease_until=None,
        last_failure="token_unreadable",
        finished_at=sa.func.now(),
    ),
)
REVOCATION_REFRESHES: Final = Place(
    name="refresh tokens of revocations",
    table=_revocations,
    ciphertext=_revocations.c.refresh_ciphertext,
    key_version=_revocations.c.refresh_key_version,
    purpose="token",
    holder=_revocations.c.integration_id,
    user_id=_revocations.c.user_id,
    kind=sa.literal(TokenKind.REFRESH.value),
    discard=sa.update(_revocations).values(refresh_ciphertext=None, refresh_key_version=None),
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
    discard=sa.update(_subscriptions).values(
        former_secret_ciphertext=None, former_secret_key_version=None, former_secret_until=None
    ),
)
PLACES: Final = (TOKENS, REVOCATIONS, REVOCATION_REFRESHES, WEBHOOK_SECRETS, FORMER_WEBHOOK_SECRETS)
CODES: Final = "codes"
"""The name under which authorization codes are counted. They are not re-encrypted, since they live for ten minutes."""


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key version. `held_by` says for the name of each place what is encrypted under the version there: the number of
    ciphertexts, or only 1 or 0 for whether there are any."""

    version: int
    state: str
    kdf: str
    canary: bytes
    held_by: dict[str, int]


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A ciphertext with its binding; `id` is that of its row. The last three members are id, fence and status of the
    integration that stops working without it; None if there is none."""

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
    """A new `ciphertext` that is to replace the ciphertext `former` in the row `id`, if that still is there."""

    id: UUID
    former: bytes
    ciphertext: bytes


async def usage(connection: AsyncConnection) -> list[KeyRow]:
    """List every key version, ascending, with the numbers of ciphertexts under it, those of authorization codes (CODES)
    that have not expired included."""
    counts = [
        sa.select(sa.func.count()).where(place.key_version == _keys.c.version).scalar_subquery() for place in PLACES
    ]
    codes = sa.select(sa.func.count()).where(
        _flows.c.code_key_version == _keys.c.version, _flows.c.expires_at > sa.func.now()
    )
    return await _key_rows(connection, [*counts, codes.scalar_subquery()])


async def backlog(connection: AsyncConnection) -> list[KeyRow]:
    """List every key version, ascending, with 1 or 0 for each of PLACES: whether anything that can be re-encrypted is
    under it there."""
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
    """Read the next `limit` ciphertexts of `place` under `version`, in the order of their ids, beginning after the id
    `after`."""
    integration_id, token_version, status = place.integration or (sa.null(), sa.null(), sa.null())
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
    """Store each new ciphertext, encrypted under `version`, where exactly its former one still is, in one statement.
    Returns how many were stored.

    A row that another transaction is writing at this moment is passed over: this statement waits for no row of the
    place, so it can be part of no deadlock over these rows.
    """
    key = place.table.c.id
    given = _given(
        id=([row.id for row in renewed], postgresql.UUID()),
        former=([row.former for row in renewed], postgresql.BYTEA()),
        ciphertext=([row.ciphertext for row in renewed], postgresql.BYTEA()),
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


def _given(**columns: tuple[Sequence[object], sa.types.TypeEngine[Any]]) -> sa.TableValuedAlias:
    """Build a table from Python values: for each column its name, its values (equally many for all) and their type."""
    arrays = [_array(values, item_type) for values, item_type in columns.values()]
    named = [sa.column(name, item_type) for name, (_, item_type) in columns.items()]
    return sa.func.unnest(*arrays).table_valued(*named).render_derived(name="given")


def _array(values: Sequence[object], item_type: sa.types.TypeEngine[Any]) -> Column:
    return sa.bindparam(None, list(values), type_=postgresql.ARRAY(item_type))


async def lock_key(connection: AsyncConnection, version: int) -> tuple[str, float] | None:
    """Lock a key version until the transaction ends; return its state, and the seconds since any version was last
    activated. None: there is no such version.

    This waits for, and holds up, every transaction that stores something under the version: their foreign keys lock its
    row too.
    """
    since = sa.select(sa.func.max(_keys.c.activated_at)).scalar_subquery()
    elapsed = sa.cast(sa.extract("epoch", sa.func.now() - since), sa.Float)
    select = sa.select(_keys.c.state, elapsed).where(_keys.c.version == version).with_for_update()
    row = (await connection.execute(select)).one_or_none()
    return None if row is None else (row[0], row[1])


async def retire_key(connection: AsyncConnection, version: int) -> None:
    """Retire a key version for good."""
    values = {"state": "retired", "retired_at": sa.func.now()}
    await connection.execute(sa.update(_keys).where(_keys.c.version == version).values(**values))


async def discard_secrets(
    connection: AsyncConnection, place: Place, secrets: Sequence[StoredSecret], *, version: int
) -> int:
    """Remove the ciphertexts in `secrets`, which cannot be decrypted, where exactly they still are under `version`.
    Returns how many were removed.

    A ciphertext that has replaced one of them is kept, whatever its version. Nothing is removed from a place that has
    no `discard`.
    """
    if place.discard is None:
        return 0
    key = place.table.c.id
    ids = [secret.id for secret in secrets]
    given = _given(id=(ids, postgresql.UUID()), former=([secret.ciphertext for secret in secrets], postgresql.BYTEA()))
    unchanged = sa.exists().where(given.c.id == key, given.c.former == place.ciphertext)
    among = key == sa.any_(_array(ids, postgresql.UUID()))
    discard = place.discard.where(among, place.key_version == version, unchanged)
    return int((await connection.execute(discard)).rowcount)


async def read_keys(connection: AsyncConnection) -> list[KeyRow]:
    """List every key version, ascending, with an empty `held_by`."""
    return await _key_rows(connection, [])


async def add_key(connection: AsyncConnection, version: int, *, kdf: str, canary: bytes) -> None:
    """Register a new version as the active one, with the time by the database's clock.

    Raises IntegrityError while another version is active, or if this one exists already.
    """
    now = sa.func.now()
    values = {"version": version, "state": "active", "kdf": kdf, "canary": canary}
    await connection.execute(sa.insert(_keys).values(**values, created_at=now, activated_at=now))


async def activate_key(connection: AsyncConnection, version: int) -> bool:
    """Make a decrypt-only version the active one, with which everything new is encrypted; False if the version is no
    longer decrypt-only.

    The time is stored by the database's clock, with which `lock_key` compares it. Raises IntegrityError while another
    version is active.
    """
    update = sa.update(_keys).where(_keys.c.version == version, _keys.c.state == "decrypt_only")
    return bool((await connection.execute(update.values(state="active", activated_at=sa.func.now()))).rowcount)


async def yield_active(connection: AsyncConnection, version: int) -> bool:
    """Make `version`, the active one, decrypt-only; False if it is no longer the active one."""
    update = sa.update(_keys).where(_keys.c.version == version, _keys.c.state == "active")
    return bool((await connection.execute(update.values(state="decrypt_only"))).rowcount)
