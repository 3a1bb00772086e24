"""Compares all integrations of a provider with the scopes that its file requires, whenever these have changed.

During a deploy the old processes and the new ones require different scopes. A scope that any process requires is in
force at once, and stays in force until no process has required it for an hour. So neither the old processes nor the new
ones undo what the others have enforced.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import structlog

from services.user_management.core.principal import Principal
from services.user_management.enums import IntegrationStatus, ReauthReason
from services.user_management.integrations.oauth_config import Provider, ProviderRegistry
from services.user_management.queries import integration_health as queries
from services.user_management.queries.integration_health import FIRST, Holder
from services.user_management.services.integration_status_service import IntegrationStatusTracker, IntegrationVersion
from services.user_management.services.slice_time import SliceTime
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

BATCH: Final = 200
WITHDRAWN_AFTER_SECONDS: Final = 3600.0
"""For how long a scope stays in force after a process last required it. This is the time of four runs of the check,
each of which can be made by a process of either release."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Position:
    """How far the integrations of one provider have been compared with one set of scopes: up to the integration with
    this account and id."""

    provider: str
    required: tuple[str, ...]
    account_id: str = ""
    id: UUID = FIRST

    def to_json(self) -> list[Any]:
        return [self.provider, list(self.required), self.account_id, str(self.id)]


@dataclass(kw_only=True, eq=False)
class ScopeEnforcement:
    """Sets integrations that lack a required scope to needs_reauth, and makes those active again that no longer lack
    one.

    The column `provider_health.scopes_required_at` says when each scope was last required, by the database's clock;
    `enforced_scopes` says which scopes all integrations were last compared with. `enforced_scopes` is written when all
    have been compared. So a comparison that is cut off is repeated, which does not change integrations that were marked
    before.
    """

    unit_of_work: UnitOfWorkFactory
    providers: ProviderRegistry
    status: IntegrationStatusTracker

    async def enforce(self, actor: Principal, position: list[Any] | None, time: SliceTime) -> list[Any] | None:
        """Enforce the required scopes of all providers whose scopes have changed, from `position` (None: the beginning)
        and until `time` is over. Returns the position from which the next slice goes on; None when nothing is left."""
        began = None if position is None else _position(position)
        for provider in self.providers:
            async with self.unit_of_work(actor) as uow:
                requirement = await queries.require(
                    uow.connection, provider.name, _enforceable(provider), hold_seconds=WITHDRAWN_AFTER_SECONDS
                )
            if requirement.enforced == requirement.in_force:
                continue
            start = _Position(provider.name, requirement.in_force)
            if began is not None and (began.provider, began.required) == (start.provider, start.required):
                start = began
            if (stopped := await self._enforce(actor, provider, start, time)) is not None:
                return stopped.to_json()
        return None

    async def _enforce(
        self, actor: Principal, provider: Provider, position: _Position, time: SliceTime
    ) -> _Position | None:
        while (after := await self._mark_batch(actor, provider, position)) is not None:
            position = after
            if not time.may_begin():
                return position
        await self._bring_back(actor, provider, position.required)
        async with self.unit_of_work(actor) as uow:
            await queries.set_enforced(uow.connection, provider.name, position.required)
        log.info("required_scopes.enforced", provider=provider.name, scopes=position.required)
        return None

    async def _mark_batch(self, actor: Principal, provider: Provider, position: _Position) -> _Position | None:
        async with self.unit_of_work(actor) as uow:
            batch = await queries.holders(
                uow.connection, provider.name, after=(position.account_id, position.id), limit=BATCH
            )
            # Every transaction that locks several integrations does so in the order of their ids, against deadlocks.
            for holder in sorted(batch, key=lambda holder: holder.id):
                if holder.is_serving and not _covers(provider, holder, position.required):
                    integration = IntegrationVersion(holder.id, holder.token_version)
                    await self.status.mark_needs_reauth(uow, integration, ReauthReason.SCOPE_UPGRADE)
        if not batch:
            return None
        return _Position(provider.name, position.required, batch[-1].account_id, batch[-1].id)

    async def _bring_back(self, actor: Principal, provider: Provider, required: Iterable[str]) -> None:
        after: UUID | None = FIRST
        while after is not None:
            async with self.unit_of_work(actor) as uow:
                batch = await queries.lacking(uow.connection, provider.name, after=after, limit=BATCH)
                for holder in batch:
                    if _covers(provider, holder, required):
                        await self._recover(uow, holder)
            after = batch[-1].id if batch else None

    async def _recover(self, uow: UnitOfWork, holder: Holder) -> None:
        """Step (part of the caller's transaction): make an integration active again, since it has all required scopes
        by now. If it has no refresh token, so that it works only until its access token expires, make it degraded."""
        integration = IntegrationVersion(holder.id, holder.token_version)
        recovered = await self.status.mark_recovered(uow, integration, was=IntegrationStatus.NEEDS_REAUTH)
        if recovered and holder.for_a_time:
            await self.status.mark_degraded(uow, integration, ReauthReason.NO_REFRESH_TOKEN)


def _enforceable(provider: Provider) -> tuple[str, ...]:
    """Return the required scopes that can be enforced. Those that the provider never names in its answers are left out,
    since nobody can tell whether the user has consented to them."""
    return tuple(sorted(set(provider.config.required_scopes) - set(provider.config.unreported_scopes)))


def _covers(provider: Provider, holder: Holder, required: Iterable[str]) -> bool:
    """Tell whether an integration has all scopes in `required`, which are the scopes in force: they may be more than
    this process itself requires."""
    return set(required) <= set(provider.config.normalise(holder.granted_scopes))


def _position(document: list[Any]) -> _Position:
    provider, required, account_id, id_text = document
    return _Position(provider, tuple(required), account_id, UUID(id_text))
