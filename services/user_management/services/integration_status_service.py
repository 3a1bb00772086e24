"""Changes of an integration's status: between active and degraded, from either of these to needs_reauth or revoked, and
from needs_reauth back to active once it no longer lacks a required scope.

Other changes are not made here: connecting an account or a refresh that succeeds sets its integration to active, for
which `record` adds the audit row, event and counter; disconnecting sets it to disconnected."""

from dataclasses import dataclass
from typing import Final
from uuid import UUID

from services.user_management.core.integration_counts import transition
from services.user_management.enums import EventType, IntegrationStatus, ReauthReason
from services.user_management.queries import integration as integration_queries
from services.user_management.queries.token_refresh import Failure
from services.user_management.schemas.events import (
    IntegrationDegraded,
    IntegrationNeedsReauth,
    IntegrationRecovered,
    IntegrationRevoked,
    StatusChanged,
)
from services.user_management.unit_of_work import UnitOfWork

SERVING: Final = [IntegrationStatus.ACTIVE, IntegrationStatus.DEGRADED]

_STATUS_AFTER: Final = {
    EventType.INTEGRATION_CONNECTED: IntegrationStatus.ACTIVE,
    EventType.INTEGRATION_RECOVERED: IntegrationStatus.ACTIVE,
    EventType.INTEGRATION_DEGRADED: IntegrationStatus.DEGRADED,
    EventType.INTEGRATION_NEEDS_REAUTH: IntegrationStatus.NEEDS_REAUTH,
    EventType.INTEGRATION_REVOKED: IntegrationStatus.REVOKED,
}


@dataclass(frozen=True, slots=True)
class IntegrationVersion:
    """An integration and its fence: its status is changed only while its row still has this `token_version`."""

    integration_id: UUID
    token_version: int


class IntegrationStatusTracker:
    """Changes the status of integrations, within the caller's transaction and with audit row, event and counter.

    Each `mark_…` returns whether it changed the status. It changes nothing if the integration's `token_version` is
    another by now, or its status is not one that this change starts from: active or degraded, unless stated otherwise.
    """

    async def mark_needs_reauth(
        self, uow: UnitOfWork, integration: IntegrationVersion, reason: ReauthReason, failure: Failure | None = None
    ) -> bool:
        """Step (part of the caller's transaction): record that the user has to connect again. `failure` is the
        provider's refusal, if that is the cause."""
        return await self._change(
            uow,
            integration,
            status=IntegrationStatus.NEEDS_REAUTH,
            reason=reason.value,
            event=IntegrationNeedsReauth,
            failure=failure,
        )

    async def mark_revoked(self, uow: UnitOfWork, integration: IntegrationVersion, failure: Failure) -> bool:
        """Step: record that the user took the consent back at the provider, as `failure` shows."""
        return await self._change(
            uow,
            integration,
            status=IntegrationStatus.REVOKED,
            reason=ReauthReason.REVOKED_AT_PROVIDER.value,
            event=IntegrationRevoked,
            failure=failure,
        )

    async def mark_degraded(self, uow: UnitOfWork, integration: IntegrationVersion, reason: str) -> bool:
        """Step: record that an active integration still works, but that something is wrong with it: `reason`."""
        return await self._change(
            uow,
            integration,
            status=IntegrationStatus.DEGRADED,
            reason=reason,
            event=IntegrationDegraded,
            from_statuses=[IntegrationStatus.ACTIVE],
        )

    async def mark_recovered(self, uow: UnitOfWork, integration: IntegrationVersion, *, was: IntegrationStatus) -> bool:
        """Step: make an integration whose status is still `was` active again, because what hindered it is gone. (A
        refresh that succeeds does this by itself.)"""
        return await self._change(
            uow,
            integration,
            status=IntegrationStatus.ACTIVE,
            reason=None,
            event=IntegrationRecovered,
            from_statuses=[was],
        )

    def record(self, uow: UnitOfWork, event: StatusChanged) -> None:
        """Step: add the audit row, the event and the counter for a change of status that another statement of the
        transaction has made. The audit row has null as the former status."""
        action = event.event_type.value
        changes = {"status": [None, action.removeprefix("integration.")], "reason": [None, event.reason]}
        uow.audit(action, target=("integration", str(event.integration_id)), user_id=event.user_id, changes=changes)
        uow.publish(event)
        uow.count(transition(event.provider, _STATUS_AFTER[event.event_type], event.reason))

    async def _change(
        self,
        uow: UnitOfWork,
        integration: IntegrationVersion,
        *,
        status: IntegrationStatus,
        reason: str | None,
        event: type[StatusChanged],
        from_statuses: list[IntegrationStatus] = SERVING,
        failure: Failure | None = None,
    ) -> bool:
        changed = await integration_queries.set_status(
            uow.connection,
            integration_id=integration.integration_id,
            token_version=integration.token_version,
            status=status,
            reason=reason,
            from_statuses=from_statuses,
            failure=failure.code if failure else None,
            detail=failure.detail if failure else None,
        )
        if changed is None:
            return False
        user_id, provider = changed
        integration_id = integration.integration_id
        self.record(uow, event(integration_id=integration_id, user_id=user_id, provider=provider, reason=reason))
        return True
