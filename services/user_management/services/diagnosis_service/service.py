"""The use case that diagnoses one integration."""

from dataclasses import dataclass

from services.user_management.core.principal import Principal
from services.user_management.database import Database
from services.user_management.schemas.diagnosis import (
    DiagnosisResponse,
    IntegrationSummary,
    ProbeOutcome,
    ProbeResponse,
)
from services.user_management.services.diagnosis_service.evidence import IntegrationEvidence
from services.user_management.services.diagnosis_service.gathering import EvidenceGatherer
from services.user_management.services.diagnosis_service.overview import judge
from services.user_management.services.integration_probe import IntegrationProbe


@dataclass(kw_only=True, eq=False)
class DiagnosisService:
    """Finds out what is wrong with an integration, with evidence, and who can fix it. It changes nothing."""

    database: Database
    gatherer: EvidenceGatherer
    probe: IntegrationProbe

    async def diagnose(
        self, _actor: Principal, user_id: str, provider: str, account: str | None = None, *, live: bool = False
    ) -> DiagnosisResponse:
        """Return what is known of a user's integration with `provider`, and the findings of the rules.

        `account` (id at the provider or e-mail) chooses among several integrations; None: the primary one, or if all
        are disconnected, the one that ended last. With `live`, the provider is asked once whether it accepts the access
        token. Raises UserNotFoundError for an id that no user has; a provider that is not configured is reported as a
        finding, not raised as an error.
        """
        async with self.database.reading() as connection:
            evidence = await self.gatherer.gather(connection, user_id=user_id, provider=provider, account=account)
        held = evidence.integration
        return DiagnosisResponse(
            user_id=user_id,
            provider=provider,
            integration=_summary(held) if held is not None else None,
            findings=judge(evidence),
            probe=await self._ask(held) if live else None,
            checked_at=evidence.now,
        )

    async def _ask(self, held: IntegrationEvidence | None) -> ProbeResponse:
        if held is None:
            return ProbeResponse(outcome=ProbeOutcome.NOT_TRIED)
        return await self.probe.ask_about(held.id)


def _summary(held: IntegrationEvidence) -> IntegrationSummary:
    return IntegrationSummary(
        id=held.id,
        provider_account_id=held.provider_account_id,
        account_email=held.account_email,
        status=held.status,
        status_reason=held.status_reason,
        status_changed_at=held.status_changed_at,
        connected_at=held.connected_at,
        granted_scopes=list(held.granted_scopes),
        has_refresh_token=held.refresh is not None,
        access_token_expires_at=held.access.expires_at if held.access is not None else None,
        last_refresh_at=held.last_refresh_at,
        last_checked_at=held.last_checked_at,
        last_failure=held.last_failure,
        last_failure_detail=held.last_failure_detail,
        last_failure_at=held.last_failure_at,
    )
