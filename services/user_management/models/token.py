"""The tables of encrypted tokens, of the key versions that encrypt them, and of token reads."""

from datetime import datetime
from typing import Any
from uuid import UUID

import ormar
import sqlalchemy as sa

from services.user_management.enums import EncryptionKeyState, TokenKind, TokenOutcome
from services.user_management.models.base import JSONB, Bytes, Identifier, PgUUID, foreign_key, index, one_of, table


class EncryptedToken(ormar.Model):
    """One token of one integration; `expires_at` is null for a token that does not expire."""

    ormar_config = table(
        "encrypted_tokens",
        foreign_key("integration_id", "integrations.id"),
        foreign_key("key_version", "encryption_keys.version", ondelete="RESTRICT"),
        one_of("kind", TokenKind),
        sa.UniqueConstraint("integration_id", "kind"),
        index("ix_encrypted_tokens_key_version", "key_version", "id"),
        index(
            "ix_encrypted_tokens_access_expiry",
            "expires_at",
            where="kind = 'access' AND expires_at IS NOT NULL",
        ),
    )

    id: UUID = PgUUID(primary_key=True)
    integration_id: UUID = PgUUID(nullable=False)
    kind: str = ormar.Text(nullable=False)
    ciphertext: bytes = Bytes(max_length=1_000_000, nullable=False)
    key_version: int = ormar.Integer(nullable=False)
    issued_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    expires_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)


class EncryptionKey(ormar.Model):
    """A key version (one secret that encrypts, by its number) that is or was in use. `canary` is a known text encrypted
    under it: a process that can decrypt the text holds the right key."""

    ormar_config = table(
        "encryption_keys",
        one_of("state", EncryptionKeyState),
        index("uq_encryption_keys_active", "state", unique=True, where="state = 'active'"),
    )

    version: int = ormar.Integer(primary_key=True, autoincrement=False)
    state: str = ormar.Text(nullable=False)
    kdf: str = ormar.Text(nullable=False)
    canary: bytes = Bytes(max_length=1024, nullable=False)
    created_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    activated_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)
    retired_at: datetime | None = ormar.DateTime(timezone=True, nullable=True)


class TokenRead(ormar.Model):
    """The record of one token read: a service's request for an access token, and its outcome. The table is append-only,
    and partitioned by month by the time that the id (a UUID of version 7) begins with."""

    ormar_config = table(
        "token_reads",
        # Two outcomes are never recorded: `unauthenticated`, since a stranger gets no row, and `stale`, an interim
        # answer.
        one_of("outcome", (value for value in TokenOutcome if value not in {"stale", "unauthenticated"})),
        index("ix_token_reads_user_id_provider_id", "user_id", "provider", "id"),
        index("ix_token_reads_client_id_id", "client_id", "id"),
        index("ix_token_reads_granted", "integration_id", "id", where="outcome = 'granted'"),
    )

    id: UUID = PgUUID(primary_key=True)
    read_at: datetime = ormar.DateTime(timezone=True, nullable=False)
    client_id: UUID = PgUUID(nullable=False)
    key_id: str = Identifier(nullable=False)
    user_id: str = Identifier(nullable=False)
    """The id of the user who was found; if nobody was, the text by which the request named the user."""
    provider: str = Identifier(nullable=False)
    integration_id: UUID | None = PgUUID(nullable=True)
    outcome: str = ormar.Text(nullable=False)
    scopes: Any = JSONB(nullable=False)
    reason: str | None = ormar.Text(nullable=True)
    request_id: str = ormar.Text(nullable=False)
