"""Rotation of the vault's keys: encrypts what is under former key versions anew, while the service runs.

The new ciphertext is stored only if the row still holds the one that was read, so that a token which somebody stores at
the same moment is kept. The key version in each row says what is left to do, so the next pass finds what an earlier one
left behind. Authorization codes are not encrypted anew, since they live for ten minutes.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.failpoints import Failpoint, failpoint
from services.user_management.core.json_types import JSONObject
from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.enums import EncryptionKeyState, ReauthReason
from services.user_management.exceptions import (
    ConflictError,
    KeyUnavailableError,
    NotFoundError,
    PoisonedCiphertextError,
)
from services.user_management.queries import encryption_key as key_queries
from services.user_management.queries.encryption_key import CODES, PLACES, KeyRow, Place, Renewed, StoredSecret
from services.user_management.security.encryption import Binding, Sealed
from services.user_management.services.integration_status_service import (
    SERVING,
    IntegrationStatusTracker,
    IntegrationVersion,
)
from services.user_management.services.slice_time import StartSlice
from services.user_management.services.vault_service import VaultService
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

BATCH: Final = 500
"""Rows per statement: they take about 15 ms of encryption in a thread, and as much time in Postgres."""
WRITES_SETTLE_SECONDS: Final = 60.0
"""For how long after the activation of another version something may still be stored under the former one: a token
refresh that was under way has a lease of 30 s."""
_START: Final = UUID(int=0)

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class KeyStatus:
    """The state of one key version, and what this process can do with it."""

    version: int
    state: str
    held: bool
    canary_good: bool
    """Whether this process holds the right secret: it decrypts the version's canary, a known text under that
    version."""
    holds: dict[str, int]
    """How many ciphertexts are under the version, by place: tokens, webhook secrets and so on."""
    unreadable: int | None
    """How many of these ciphertexts cannot be decrypted although the key is right. None: this was not examined, since
    the version is active or this process does not hold the right key."""


@dataclass(slots=True)
class Progress:
    """How far `rewrap_all` has come, in numbers of ciphertexts."""

    left: int
    started: float
    """The time of the start, by the monotonic clock, in seconds."""
    done: int = 0
    unreadable: int = 0

    def per_second(self, now: float) -> float:
        """Return how many ciphertexts were encrypted anew per second from the start until `now` (monotonic clock)."""
        return self.done / max(now - self.started, 1e-3)


@dataclass(frozen=True, slots=True)
class _Step:
    """A part of a pass: all ciphertexts under one key version in one place, which is a column of ciphertexts."""

    place: Place
    version: int


@dataclass(slots=True)
class _Pass:
    """What remains of one pass over the ciphertexts under former versions.

    `active` is the version to encrypt under; `after` is the id of the last row that was read in the first of
    `steps`."""

    active: int
    steps: list[_Step]
    after: UUID = _START

    def cursor(self) -> JSONObject | None:
        """Return the place in the pass at which the next slice goes on, as JSON; None at the end of the pass."""
        if not self.steps:
            return None
        return {"place": self.steps[0].place.name, "version": self.steps[0].version, "after": str(self.after)}

    def go_to(self, cursor: JSONObject | None) -> None:
        """Drop the steps and rows before `cursor`, which earlier slices of this pass have read. A cursor of None, or
        one that names an unknown place, drops nothing."""
        names = [place.name for place in PLACES]
        if cursor is None or cursor.get("place") not in names:
            return
        reached = (names.index(cursor["place"]), cursor["version"])
        self.steps = [step for step in self.steps if (names.index(step.place.name), step.version) >= reached]
        if self.steps and (names.index(self.steps[0].place.name), self.steps[0].version) == reached:
            self.after = UUID(cursor["after"])

    def went_by(self, rows: Sequence[StoredSecret]) -> None:
        """Move past `rows`, the batch that was just read in the first step. After a batch that is not full, the step is
        done."""
        if len(rows) < BATCH:
            self.steps, self.after = self.steps[1:], _START
        else:
            self.after = rows[-1].id


@dataclass(slots=True)
class _Batch:
    """The result of one batch: how many rows were encrypted anew and stored, and which rows cannot be decrypted."""

    rewrapped: int = 0
    unreadable: list[StoredSecret] = field(default_factory=list)


@dataclass(kw_only=True, eq=False)
class KeyRotationService:
    """Encrypts secrets anew under the active key version, reports what is left, and retires former versions."""

    vault: VaultService
    database: Database
    unit_of_work: UnitOfWorkFactory
    status_tracker: IntegrationStatusTracker
    clock: Clock
    start_slice: StartSlice

    async def rewrap(self, actor: Principal, cursor: Any = None) -> JSONObject | None:
        """Slice: encrypt everything under other key versions anew under the active one, for about five seconds.

        Returns the cursor for the next slice; None at the end of the pass, when this process does not hold the active
        version, or when so many integrations have unreadable tokens that marking them is stopped. What a pass could not
        encrypt is left to the next one. If there is nothing to do, this takes one statement."""
        current = await self._plan()
        current.go_to(cursor)
        time = self.start_slice()
        while current.steps:
            if not await self._advance(actor, current, _Batch()):
                return None
            # Check the time after a batch, not before: then every slice makes progress, however slow the machine.
            if not time.may_begin():
                break
        return current.cursor()

    async def rewrap_all(self, actor: Principal, report: Callable[[Progress], None]) -> Progress:
        """Encrypt everything under former key versions anew in one call; call `report` after every batch, and return
        the final figures.

        Ciphertexts under versions that this process does not hold stay as they are. Raises KeyUnavailableError when
        this process does not hold the active version, ConflictError when so many integrations have unreadable tokens
        that marking them is stopped."""
        await self.vault.active_version()
        progress = Progress(left=await self._left(), started=self.clock.monotonic())
        rewrapped = -1
        while rewrapped != progress.done:  # a pass leaves rows that others were writing to the next one
            rewrapped, progress.unreadable = progress.done, 0
            current = await self._plan()
            while current.steps:
                batch = _Batch()
                goes_on = await self._advance(actor, current, batch)
                progress.done += batch.rewrapped
                progress.unreadable += len(batch.unreadable)
                progress.left = max(0, progress.left - batch.rewrapped)
                report(progress)
                if not goes_on:
                    raise ConflictError(
                        "More integrations cannot be read than may be marked in a minute; look for the cause first."
                    )
        progress.left = await self._left()
        return progress

    async def status(self, _actor: Principal) -> list[KeyStatus]:
        """List every key version, ascending. To count the unreadable ciphertexts, this decrypts all those under
        versions that are not active and whose right key this process holds."""
        async with self.database.reading() as connection:
            rows = await key_queries.usage(connection)
        return [await self._status_of(row) for row in rows]

    async def retire(self, actor: Principal, version: int, *, discard_unreadable: bool = False) -> dict[str, int]:
        """Retire `version`, so that no process has to hold it any more; return how many secrets were discarded, by
        place. If it is retired already, nothing changes.

        With `discard_unreadable`, secrets that cannot be decrypted under it are first discarded, except webhook secrets
        in use, and the integrations whose tokens they were are set to needs_reauth. Raises NotFoundError if there is no
        such version; KeyUnavailableError if unreadable secrets are to be discarded and this process does not hold the
        right key; ConflictError while the version is active, while anything is still encrypted under it, or while
        somebody may still be storing something under it."""
        unreadable = await self._all_unreadable(version) if discard_unreadable else {}
        discarded: dict[str, int] = {}

        async with self.unit_of_work(actor) as uow:
            locked = await key_queries.lock_key(uow.connection, version)
            if locked is None:
                raise NotFoundError(f"There is no key version {version}.")
            state, settled_seconds = locked
            if state == EncryptionKeyState.RETIRED.value:
                return {}
            self._refuse_early(version, state, settled_seconds)
            for place, rows in unreadable.items():
                await self._mark(uow, rows)
                discarded[place.name] = await key_queries.discard_secrets(uow.connection, place, rows, version=version)
            await self._refuse_while_used(uow, version)
            await key_queries.retire_key(uow.connection, version)
            uow.audit(
                "encryption_key.retired",
                target=("encryption_key", str(version)),
                user_id=None,
                changes={"state": [state, EncryptionKeyState.RETIRED.value], "discarded": [None, discarded]},
            )
        return discarded

    async def _plan(self) -> _Pass:
        """Plan a pass over everything under former versions, except those of which this process does not hold the right
        key. The pass is empty if this process does not hold the active key."""
        async with self.database.reading() as connection:
            rows = await key_queries.backlog(connection)
        active = next((row for row in rows if row.state == EncryptionKeyState.ACTIVE.value), None)
        former = [row for row in rows if row is not active and any(row.held_by.values())]
        if active is None or not former or not self._may_use(active):
            return _Pass(0, [])
        usable = [row for row in former if self._may_use(row)]
        steps = [_Step(place, row.version) for place in PLACES for row in usable if row.held_by[place.name]]
        return _Pass(active.version, steps)

    def _may_use(self, row: KeyRow) -> bool:
        return self.vault.prove_or_report(row.version, row.kdf, row.canary)

    async def _left(self) -> int:
        """Count the ciphertexts under versions other than the active one; authorization codes are not counted."""
        async with self.database.reading() as connection:
            rows = await key_queries.usage(connection)
        former = [row for row in rows if row.state != EncryptionKeyState.ACTIVE.value]
        return sum(row.held_by[place.name] for row in former for place in PLACES)

    async def _advance(self, actor: Principal, current: _Pass, batch: _Batch) -> bool:
        """Encrypt the next batch anew and write the result into `batch`. Returns False if the pass has to stop because
        too many integrations have unreadable tokens."""
        step = current.steps[0]
        async with self.database.reading() as connection:
            rows = await key_queries.secrets_under(
                connection, step.place, step.version, after=current.after, limit=BATCH
            )
        current.went_by(rows)
        if not rows:
            return True
        items = [_sealed(step, row) for row in rows]
        outcomes = await asyncio.to_thread(self.vault.encryption.reencrypt_many, items, current.active)
        renewed = [
            Renewed(row.id, row.ciphertext, outcome)
            for row, outcome in zip(rows, outcomes, strict=True)
            if isinstance(outcome, bytes)
        ]
        batch.unreadable = [
            row for row, outcome in zip(rows, outcomes, strict=True) if isinstance(outcome, PoisonedCiphertextError)
        ]
        batch.rewrapped = await self._store(actor, step.place, renewed, current.active)
        log.info(
            "keys.rewrap_progressed",
            place=step.place.name,
            key_version=step.version,
            rewrapped=batch.rewrapped,
            superseded=len(renewed) - batch.rewrapped,
            unreadable=len(batch.unreadable),
        )
        return await self._give_up(actor, step, batch.unreadable)

    async def _store(self, actor: Principal, place: Place, renewed: Sequence[Renewed], version: int) -> int:
        if not renewed:
            return 0
        failpoint(Failpoint.ROTATION_SEALED)
        async with self.unit_of_work(actor) as uow:
            stored = await key_queries.replace_secrets(uow.connection, place, renewed, version=version)
        failpoint(Failpoint.ROTATION_STORED)
        return stored

    async def _give_up(self, actor: Principal, step: _Step, rows: Sequence[StoredSecret]) -> bool:
        """Log unreadable rows and leave them as they are; set the integrations that they serve to needs_reauth.

        Returns False, and marks no more, when more integrations would be marked in a minute than the vault's limit: the
        fault is then probably ours.
        """
        for row in rows:
            log.error("keys.secret_unreadable", place=step.place.name, key_version=step.version, id=str(row.id))
            if row.integration_id is None or row.status not in SERVING:
                continue
            if not self.vault.poison_guard.may_mark(row.integration_id):
                log.critical("keys.rewrap_stopped", reason="poison_limit_reached")
                return False
            async with self.unit_of_work(actor) as uow:
                await self._mark(uow, [row])
        return True

    async def _mark(self, uow: UnitOfWork, rows: Sequence[StoredSecret]) -> None:
        """Step (part of the caller's transaction): set the integrations of `rows` to needs_reauth, except those whose
        tokens have changed since the rows were read."""
        fences = {
            (row.integration_id, row.token_version)
            for row in rows
            if row.integration_id is not None and row.token_version is not None
        }
        # Every transaction that locks several integrations does so in the order of their ids, against deadlocks.
        for fence in sorted(fences):
            await self.status_tracker.mark_needs_reauth(uow, IntegrationVersion(*fence), ReauthReason.TOKEN_UNREADABLE)

    async def _status_of(self, row: KeyRow) -> KeyStatus:
        good = self.vault.prove(row.version, row.kdf, row.canary)
        unreadable: int | None = None
        if good and row.state != EncryptionKeyState.ACTIVE.value:
            unreadable = sum([len(found) for found in (await self._all_unreadable(row.version)).values()])
        return KeyStatus(
            version=row.version,
            state=row.state,
            held=row.version in self.vault.encryption.versions,
            canary_good=good,
            holds=row.held_by,
            unreadable=unreadable,
        )

    async def _all_unreadable(self, version: int) -> dict[Place, list[StoredSecret]]:
        """Find the secrets under `version` that cannot be decrypted, by place; return an empty dict if there is no such
        version.

        Raises KeyUnavailableError if this process does not hold the right key.
        """
        async with self.database.reading() as connection:
            rows = await key_queries.backlog(connection)
        row = next((row for row in rows if row.version == version), None)
        if row is None:
            return {}
        if not self._may_use(row):
            raise KeyUnavailableError(extra={"key_version": version})
        return {
            place: [secret async for secret in self._unreadable(_Step(place, version))]
            for place in PLACES
            if row.held_by[place.name]
        }

    async def _unreadable(self, step: _Step) -> AsyncIterator[StoredSecret]:
        after, is_more = _START, True
        while is_more:
            async with self.database.reading() as connection:
                rows = await key_queries.secrets_under(connection, step.place, step.version, after=after, limit=BATCH)
            items = [_sealed(step, row) for row in rows]
            opened = await asyncio.to_thread(self.vault.encryption.decrypt_many, items)
            for row, value in zip(rows, opened, strict=True):
                if isinstance(value, PoisonedCiphertextError):
                    yield row
            is_more = len(rows) == BATCH
            after = rows[-1].id if rows else after

    @staticmethod
    def _refuse_early(version: int, state: str, settled_seconds: float) -> None:
        if state == EncryptionKeyState.ACTIVE.value:
            raise ConflictError(f"Version {version} is active; activate another one first.")
        if settled_seconds < WRITES_SETTLE_SECONDS:
            raise ConflictError(
                f"Somebody may still be storing under version {version}; try again {WRITES_SETTLE_SECONDS:.0f} s after"
                " the activation of another one."
            )

    @staticmethod
    async def _refuse_while_used(uow: UnitOfWork, version: int) -> None:
        (row,) = [row for row in await key_queries.usage(uow.connection) if row.version == version]
        left = [f"{count} {name}" for name, count in row.held_by.items() if count]
        if left:
            hint = "" if row.held_by[CODES] and len(left) == 1 else "; re-encrypt them with `cli keys rewrap`"
            raise ConflictError(f"Version {version} is still in use: {', '.join(left)}{hint}.")


def _sealed(step: _Step, row: StoredSecret) -> Sealed:
    binding = Binding(purpose=step.place.purpose, user_id=row.user_id, place=row.holder, kind=row.kind)
    return Sealed(row.ciphertext, binding, step.version)
