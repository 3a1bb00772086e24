"""The vault as use cases see it: it seals (encrypts) and opens secrets, knows the active key version, and proves that
this process holds the right keys. This module also has the binding of every kind of secret: the user, place and purpose
without which a ciphertext cannot be decrypted."""

import asyncio
from collections.abc import Callable
from typing import Final
from uuid import UUID

import structlog
from sqlalchemy.exc import IntegrityError

from services.user_management.core.clock import Clock
from services.user_management.core.principal import Principal
from services.user_management.database import constraint_name
from services.user_management.enums import EncryptionKeyState, TokenKind
from services.user_management.exceptions import (
    ConflictError,
    KeyUnavailableError,
    PoisonedCiphertextError,
    StartupError,
)
from services.user_management.models import EncryptionKey
from services.user_management.queries import encryption_key as key_queries
from services.user_management.queries.encryption_key import KeyRow
from services.user_management.security.encryption import PBKDF2_ITERATIONS, Binding, TokenEncryption
from services.user_management.unit_of_work import UnitOfWorkFactory

KDF: Final = f"pbkdf2-sha256-{PBKDF2_ITERATIONS}"
_CANARY: Final = "canary"
_CANARY_BINDING: Final = Binding(purpose="canary", user_id="")
_OVERTAKEN_BY: Final = ("pk_encryption_keys", "uq_encryption_keys_active")
"""Constraints that refuse the slower of two processes that activate a version at the same moment."""
_OVERTAKEN: Final = "Somebody else is activating or retiring a key version right now; look at the status."
POISON_LIMIT_PER_MINUTE: Final = 10

log = structlog.get_logger(__name__)


def token_binding(user_id: str, integration_id: UUID, kind: TokenKind) -> Binding:
    """Return the binding of a token: its user, its integration and its kind."""
    return Binding(purpose="token", user_id=user_id, place=str(integration_id), kind=kind.value)


def code_binding(user_id: str, flow_id: UUID) -> Binding:
    """Return the binding of an authorization code, which is stored until its user confirms: the user and the flow."""
    return Binding(purpose="oauth_code", user_id=user_id, place=str(flow_id))


def webhook_secret_binding(subscription_id: UUID) -> Binding:
    """Return the binding of a secret, present or former, that signs a webhook subscription's deliveries: that
    subscription."""
    return Binding(purpose="webhook_secret", user_id="", place=str(subscription_id))


class PoisonGuard:
    """Limits how many integrations are marked as unreadable: if many tokens cannot be decrypted at once, the fault is
    probably ours, and their users must not be sent to connect again."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._marked: dict[UUID, float] = {}

    def may_mark(self, integration_id: UUID) -> bool:
        """Tell whether this integration may be marked: it was marked within the last minute, or fewer than ten others
        were. If so, it is counted as marked for a minute."""
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
    """Seals and opens secrets, and registers and activates key versions in the database.

    A version is proven when this process holds the secret that the data was encrypted with: the secret has decrypted
    the version's canary (a known text stored with the version) or any other value under the version.
    """

    def __init__(
        self, *, load_keys: Callable[[], TokenEncryption], unit_of_work: UnitOfWorkFactory, clock: Clock
    ) -> None:
        """Set up a vault without keys. `load` gets them later from `load_keys`, which may block for seconds: it asks a
        key source, and derives root keys."""
        self._load_keys = load_keys
        self._encryption = TokenEncryption({})
        self._proven: set[int] = set()
        """Versions whose secret is known to be the one that the data was encrypted with."""
        self._reported: set[int] = set()
        self._unit_of_work = unit_of_work
        self.poison_guard = PoisonGuard(clock)

    async def load(self) -> None:
        """Get the keys from `load_keys`, in a thread. Raises StartupError if the key source does not provide them."""
        self._encryption = await asyncio.to_thread(self._load_keys)

    @property
    def encryption(self) -> TokenEncryption:
        """The keys of this process; none before `load`."""
        return self._encryption

    async def prove_keys(self, actor: Principal) -> None:
        """Prove, by its canary, every version that is not retired. If none is registered yet, first register and
        activate the highest one that this process holds.

        Raises StartupError naming the version that is missing or wrong.
        """
        rows = await EncryptionKey.objects.exclude(state=EncryptionKeyState.RETIRED.value).all()
        if not rows:
            rows = [await self._register_first(actor)]
        for row in rows:
            if row.version not in self._encryption.versions:
                raise StartupError(f"ENCRYPTION_KEYS: version {row.version} is in use and not given")
            if not self.prove(row.version, row.kdf, row.canary):
                raise StartupError(
                    f"ENCRYPTION_KEYS: version {row.version} (or ENCRYPTION_SALT) is not the one the data is under"
                )

    def prove(self, version: int, kdf: str, canary: bytes) -> bool:
        """Tell whether this process holds `version` with the secret that encrypted `canary`, and derives its keys by
        `kdf`. If so, remember the version as proven."""
        try:
            known = self._encryption.decrypt_token(canary, _CANARY_BINDING, version) == _CANARY
        except (PoisonedCiphertextError, KeyUnavailableError):
            return False
        if known and kdf == KDF:
            self._proven.add(version)
        return known and kdf == KDF

    def prove_or_report(self, version: int, kdf: str, canary: bytes) -> bool:
        """Return what `prove` returns, but log a failure, once per version. This is for callers that can go on without
        the version."""
        if version not in self._encryption.versions:
            self._report("vault.key_missing", version)
            return False
        if not self.prove(version, kdf, canary):
            self._report("vault.key_wrong", version)
            return False
        return True

    async def active_version(self) -> int:
        """Read from the database which key version encryption has to use at this moment.

        Raises KeyUnavailableError when this process does not hold it, or holds another secret under its number.
        """
        row = await EncryptionKey.objects.get(state=EncryptionKeyState.ACTIVE.value)
        self._require_proven(row)
        return int(row.version)

    async def ensure_proven(self, version: int) -> int:
        """Return `version` if this process may encrypt under it, which means that the version is proven.

        This asks the database only if the version is not proven yet. Raises KeyUnavailableError when this process does
        not hold the version, or holds another secret under its number.
        """
        if self.require_held(version) not in self._proven:
            self._require_proven(await EncryptionKey.objects.get(version=version))
        return version

    def require_held(self, version: int) -> int:
        """Return `version` if this process holds a secret under that number, right or wrong. Raises
        KeyUnavailableError, and logs that once per version, if it does not."""
        if version not in self._encryption.versions:
            self._report("vault.key_missing", version)
            raise KeyUnavailableError(extra={"key_version": version})
        return version

    def seal(self, plaintext: str, binding: Binding, version: int) -> bytes:
        """Encrypt `plaintext` under `version`, without I/O and in microseconds. Raises KeyUnavailableError for a
        version that this process does not hold."""
        return self._encryption.encrypt_token(plaintext, binding, version)

    def open(self, ciphertext: bytes, binding: Binding, version: int) -> str:
        """Decrypt `ciphertext`, which is under `version`, without I/O and in microseconds.

        Raises KeyUnavailableError for a version that this process does not hold. A ciphertext that does not decrypt
        raises PoisonedCiphertextError if the version is proven, since then the stored value is bad; otherwise
        KeyUnavailableError, since the key may be wrong. The first value that does decrypt proves the version.
        """
        try:
            plaintext = self._encryption.decrypt_token(ciphertext, binding, self.require_held(version))
        except PoisonedCiphertextError:
            if version not in self._proven:
                raise self._wrong_key(version) from None
            raise
        self._proven.add(version)
        return plaintext

    async def activate(self, actor: Principal, version: int) -> None:
        """Make `version` the one that is used for encryption, and register it if it is new; the former one is still
        used for decryption. If `version` is active already, nothing changes.

        Raises KeyUnavailableError for a version that this process does not hold; ConflictError for one that is retired
        or registered with another secret, and when somebody else activates or retires a version at the same moment.
        """
        try:
            await self._activate(actor, self.require_held(version))
        except IntegrityError as error:
            if constraint_name(error) not in _OVERTAKEN_BY:
                raise
            raise ConflictError(_OVERTAKEN) from None

    async def _activate(self, actor: Principal, version: int) -> None:
        canary = self.seal(_CANARY, _CANARY_BINDING, version)

        async with self._unit_of_work(actor) as uow:
            rows = {row.version: row for row in await key_queries.read_keys(uow.connection)}
            former = next((row.version for row in rows.values() if row.state == EncryptionKeyState.ACTIVE.value), None)
            if former == version:
                return
            # The rows are not locked: each change names the state that it starts from, and others may have been faster.
            if former is not None and not await key_queries.yield_active(uow.connection, former):
                raise ConflictError(_OVERTAKEN)
            if version not in rows:
                await key_queries.add_key(uow.connection, version, kdf=KDF, canary=canary)
            else:
                self._refuse_unless_usable(rows[version])
                if not await key_queries.activate_key(uow.connection, version):
                    raise ConflictError(_OVERTAKEN)
            uow.audit(
                "encryption_key.activated",
                target=("encryption_key", str(version)),
                user_id=None,
                changes={"active": [former, version]},
            )

    def _require_proven(self, row: EncryptionKey) -> None:
        if self.require_held(row.version) not in self._proven and not self.prove(row.version, row.kdf, row.canary):
            raise self._wrong_key(row.version)

    def _refuse_unless_usable(self, row: KeyRow) -> None:
        if row.state == EncryptionKeyState.RETIRED.value:
            raise ConflictError(f"Version {row.version} is retired; generate one with a higher --version.")
        if not self.prove(row.version, row.kdf, row.canary):
            raise ConflictError(f"Version {row.version} is registered with another secret than the one held here.")

    async def _register_first(self, actor: Principal) -> EncryptionKey:
        try:
            await self.activate(actor, max(self._encryption.versions))
        except ConflictError:
            # Another process that started at the same time was faster; its row is as good, if we hold the same key.
            log.info("vault.first_key_registered_elsewhere")
        return await EncryptionKey.objects.get(state=EncryptionKeyState.ACTIVE.value)

    def _wrong_key(self, version: int) -> KeyUnavailableError:
        self._report("vault.key_wrong", version)
        return KeyUnavailableError(extra={"key_version": version})

    def _report(self, event: str, version: int) -> None:
        """Log `event` unless something was logged for this version before. The reads that fail because of it are
        counted elsewhere."""
        if version not in self._reported:
            self._reported.add(version)
            log.critical(event, key_version=version)
