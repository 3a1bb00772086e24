"""The form of service keys, `ums_<id>_<secret>`, and the function that issues them. Of the secret only the SHA-256 is
stored."""

import secrets
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from services.user_management.models import ServiceKey
from services.user_management.security.signing import sha256
from services.user_management.unit_of_work import UnitOfWork

KEY_PREFIX: Final = "ums"


@dataclass(frozen=True, slots=True)
class ServiceCredential:
    """A service key as a caller presented it, with its secret hashed. It need not be valid: the database decides
    that."""

    key_id: str
    secret_hash: bytes


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key. `text` is the whole key with its secret, which only the key's service may see."""

    id: str
    text: str


async def issue_key(uow: UnitOfWork, client_id: UUID) -> IssuedKey:
    """Step (part of a transaction): make and store a new key of a service. The key does not expire."""
    key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
    await ServiceKey.objects.create(
        id=key_id, client_id=client_id, secret_hash=sha256(secret), created_at=uow.clock.now()
    )
    return IssuedKey(key_id, f"{KEY_PREFIX}_{key_id}_{secret}")
