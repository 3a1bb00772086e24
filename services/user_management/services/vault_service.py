"""The vault as the service uses it: bindings of every kind of secret, the active key version, and proof of the keys."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError

from services.user_management.core.clock import Clock
from services.user_management.database import Database
from services.user_management.enums import EncryptionKeyState, TokenKind
from services.user_management.exceptions import (
    ConflictError,
    KeyUnavailableError,
    PoisonedCiphertextError,
    StartupError,
)
from services.user_management.models import EncryptionKey
from services.user_management.queries import encryption_key as key_queries
from services.user_management.security.encryption import PBKDF2_ITERATIONS, Binding, TokenEncryption
from services.user_management.unit_of_work import UnitOfWorkFactory

KDF: Final = f"pbkdf2-sha256-{PBKDF2_ITERATIONS}"
_CANARY: Final = "canary"
_CANARY_BINDING: Final = Binding(purpose="canary", user_id="")
POISON_LIMIT_PER_MINUTE: Final = 10

log = structlog.get_logger(__name__)


def token_binding(user_id: str, integration_id: UUID, kind: TokenKind) -> Binding:
    """A token of one connection."""
    return Binding(purpose="token", user_id=user_id, place=str(integration_id), kind=kind.value)


def code_binding(user_id: str, flow_id: UUID) -> Binding:
    """An authorization code that waits for its user to confirm."""
    return Binding(purpose="oauth_code", user_id=user_id, place=str(flow_id))


def webhook_secret_binding(subscription_id: UUID) -> Binding:
    """The secret, present or former, that signs what one webhook subscription is sent."""
    return Binding(purpose="webhook_secret", user_id="", place=str(subscription_id))


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """One key version; `held` tells whether this process has its secret."""

    version: int
    state: str
    held: bool
    tokens: int


class PoisonGuard:
    """Stops the marking of connections when so many fail that the fault must be ours."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marked: dict[UUID, float] = {}

    def may_mark(self, integration_id: UUID) -> bool:
        """Whether this connection may be marked: it is one of the first ten of the minute, however many ask for it."""
        now = self._clock.monotonic()
        self._marked = {marked: at for marked, at in self._marked.items() if at > now - 60}
        if integration_id in self._marked:
            return True
        if len(self._marked) >= POISON_LIMIT_PER_MINUTE:
            log.critical("vault.poison_limit_reached", limit_per_minute=POISON_LIMIT_PER_MINUTE)
            return False
        self._marked[integration_id] = now
        return True


class VaultService:
    """Seals and opens secrets, and keeps the table of key versions."""

    def __init__(
        self, *, encryption: TokenEncryption, database: Database, unit_of_work: UnitOfWorkFactory, clock: Clock
    ) -> None:
        self._encryption = encryption
        self._database = database
        self._unit_of_work = unit_of_work
        self._clock = clock
        self.poison_guard = PoisonGuard(clock)

    async def prove_keys(self) -> None:
        """Decrypt the canary of every version in use; register the highest version held in an empty database.

        Raises StartupError naming the version that is missing or wrong.
        """
        rows = await EncryptionKey.objects.exclude(state=EncryptionKeyState.RETIRED.value).all()
        if not rows:
            rows = [await self._register_first()]
        for row in rows:
            if row.version not in self._encryption.versions:
                raise StartupError(f"ENCRYPTION_KEYS: version {row.version} is in use and not given")
            if row.kdf != KDF or not self._canary_is_good(row):
                raise StartupError(
                    f"ENCRYPTION_KEYS: version {row.version} (or ENCRYPTION_SALT) is not the one the data is under"
                )

    async def active_version(self) -> int:
        """The version that new ciphertexts are under, as the database says now.

        Raises KeyUnavailableError when this process does not hold it.
        """
        row = await EncryptionKey.objects.get(state=EncryptionKeyState.ACTIVE.value)
        return self.require(row.version)

    def require(self, version: int) -> int:
        """`version`, if this process holds it. Raises KeyUnavailableError."""
        if version not in self._encryption.versions:
            log.critical("vault.key_missing", key_version=version)
            raise KeyUnavailableError(extra={"key_version": version})
        return version

    def seal(self, plaintext: str, binding: Binding, version: int) -> bytes:
        """Encrypt; microseconds, no I/O."""
        return self._encryption.encrypt_token(plaintext, binding, version)

    def open(self, ciphertext: bytes, binding: Binding, version: int) -> str:
        """Decrypt; microseconds, no I/O. Raises KeyUnavailableError or PoisonedCiphertextError."""
        return self._encryption.decrypt_token(ciphertext, binding, self.require(version))

    async def activate(self, version: int) -> None:
        """Make `version` the one that encrypts; the former one goes on decrypting. Does nothing if it already is.

        Raises KeyUnavailableError for a version that this process does not hold, ConflictError when somebody else
        activates one at the same moment.
        """
        try:
            await self._activate(self.require(version))
        except IntegrityError:
            raise ConflictError("Another key version is being activated right now; look at the status.") from None

    async def _activate(self, version: int) -> None:
        canary = self.seal(_CANARY, _CANARY_BINDING, version)
        now = self._clock.now()

        async with self._unit_of_work() as uow:
            active = await EncryptionKey.objects.get_or_none(state=EncryptionKeyState.ACTIVE.value)
            if active is not None and active.version == version:
                return
            if active is not None:
                await EncryptionKey.objects.filter(version=active.version).update(
                    state=EncryptionKeyState.DECRYPT_ONLY.value
                )
            updated = await EncryptionKey.objects.filter(version=version).update(
                state=EncryptionKeyState.ACTIVE.value, activated_at=now
            )
            if not updated:
                await EncryptionKey.objects.create(
                    version=version,
                    state=EncryptionKeyState.ACTIVE.value,
                    kdf=KDF,
                    canary=canary,
                    created_at=now,
                    activated_at=now,
                )
            former = active.version if active else None
            uow.audit(
                "encryption_key.activated",
                target=("encryption_key", str(version)),
                user_id=None,
                changes={"active": [former, version]},
            )

    async def status(self) -> list[KeyStatus]:
        """Every key version with the number of tokens under it, ascending."""
        async with self._database.reading() as connection:
            rows = await key_queries.usage(connection)
        return [
            KeyStatus(version, state, version in self._encryption.versions, tokens) for version, state, tokens in rows
        ]

    async def _register_first(self) -> EncryptionKey:
        try:
            await self.activate(max(self._encryption.versions))
        except ConflictError:
            # Another process of the same first start was faster; its row is as good, if we hold the same key.
            log.info("vault.first_key_registered_elsewhere")
        return await EncryptionKey.objects.get(state=EncryptionKeyState.ACTIVE.value)

    def _canary_is_good(self, row: EncryptionKey) -> bool:
        try:
            return self._encryption.decrypt_token(row.canary, _CANARY_BINDING, row.version) == _CANARY
        except PoisonedCiphertextError:
            return False
