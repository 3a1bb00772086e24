"""Holds all connections of a provider against its required scopes, whenever these have changed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog

from services.user_management.core.clock import Clock
from services.user_management.database import Database
from services.user_management.enums import EventType, IntegrationStatus, ReauthReason
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.queries import integration as integration_queries
from services.user_management.queries import integration_health as queries
from services.user_management.queries.integration_health import FIRST, Holder
from services.user_management.services.integration_status_service import ConnectionVersion, IntegrationStatusTracker
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

BATCH: Final = 200

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Position:
    """How far the connections of one provider were held against one set of scopes."""

    provider: str
    required: tuple[str, ...]
    account_id: str = ""
    id: UUID = FIRST

    def to_json(self) -> list[Any]:
        return [self.provider, list(self.required), self.account_id, str(self.id)]


class ScopeEnforcement:
    """Marks what lacks a scope that is required by now, and brings back what lacks nothing any more.

    `provider_health.enforced_scopes` says what was last enforced; it is written when all connections are through, so a
    run that is cut off is repeated, which changes nothing for those that were marked before.
    """

    def __init__(
        self,
        *,
        database: Database,
        unit_of_work: UnitOfWorkFactory,
        providers: ProviderRegistry,
        status: IntegrationStatusTracker,
        clock: Clock,
        is_stopping: Callable[[], bool],
    ) -> None:
        self._database = database
        self._unit_of_work = unit_of_work
        self._providers = providers
        self._status = status
        self._clock = clock
        self._is_stopping = is_stopping

    async def enforce(self, position: list[Any] | None, *, ends: float) -> list[Any] | None:
        """Go on from `position` until `ends` (monotonic); where to go on from, None when nothing is left."""
        began = None if position is None else _position(position)
        async with self._database.reading() as connection:
            standings = await queries.read_standings(connection, [provider.name for provider in self._providers])
        for provider in self._providers:
            required = _enforceable(provider)
            standing = standings.get(provider.name)
            if standing is not None and standing.enforced_scopes == required:
                continue
            start = _Position(provider.name, required)
            if began is not None and (began.provider, began.required) == (provider.name, required):
                start = began
            if (stopped := await self._enforce(provider, start, ends)) is not None:
                return stopped.to_json()
        return None

    async def _enforce(self, provider: Provider, position: _Position, ends: float) -> _Position | None:
        while (after := await self._mark_batch(provider, position)) is not None:
            position = after
            if self._clock.monotonic() > ends or self._is_stopping():
                return position
        await self._bring_back(provider)
        async with self._unit_of_work() as uow:
            await queries.set_enforced(uow.connection, provider.name, position.required)
        log.info("required_scopes.enforced", provider=provider.name, scopes=position.required)
        return None

    async def _mark_batch(self, provider: Provider, position: _Position) -> _Position | None:
        async with self._unit_of_work() as uow:
            batch = await queries.holders(
                uow.connection, provider.name, after=(position.account_id, position.id), limit=BATCH
            )
            for holder in batch:
                if holder.is_serving and provider.config.missing_required(holder.granted_scopes):
                    connection = ConnectionVersion(holder.id, holder.token_version)
                    await self._status.mark_needs_reauth(uow, connection, ReauthReason.SCOPE_UPGRADE)
        if not batch:
            return None
        return _Position(provider.name, position.required, batch[-1].account_id, batch[-1].id)

    async def _bring_back(self, provider: Provider) -> None:
        after: UUID | None = FIRST
        while after is not None:
            async with self._unit_of_work() as uow:
                batch = await queries.awaiting_upgrade(uow.connection, provider.name, after=after, limit=BATCH)
                for holder in batch:
                    if not provider.config.missing_required(holder.granted_scopes):
                        await self._recover(uow, holder)
            after = batch[-1].id if batch else None

    async def _recover(self, uow: UnitOfWork, holder: Holder) -> None:
        """Step: the requirement was withdrawn."""
        changed = await integration_queries.set_status(
            uow.connection,
            integration_id=holder.id,
            token_version=holder.token_version,
            status=IntegrationStatus.ACTIVE,
            reason=None,
            from_statuses=[IntegrationStatus.NEEDS_REAUTH],
        )
        if changed is not None:
            user_id, provider = changed
            self._status.record(
                uow, EventType.INTEGRATION_RECOVERED, integration_id=holder.id, user_id=user_id, provider=provider
            )


def _enforceable(provider: Provider) -> tuple[str, ...]:
    """Required scopes of which an answer would tell."""
    return tuple(sorted(set(provider.config.required_scopes) - set(provider.config.unreported_scopes)))


def _position(document: list[Any]) -> _Position:
    provider, required, account_id, id_text = document
    return _Position(provider, tuple(required), account_id, UUID(id_text))
