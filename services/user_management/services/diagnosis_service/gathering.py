"""Gathers the evidence about one integration from the database, in a handful of statements."""

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.enums import (
    FlowStatus,
    IntegrationStatus,
    ProviderState,
    RevocationState,
    TokenKind,
    TokenOutcome,
)
from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError, UserNotFoundError
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.queries import diagnosis as queries
from services.user_management.queries.diagnosis import DiagnosedIntegration, DiagnosedProvider, StoredToken, Subject
from services.user_management.security.encryption import Binding
from services.user_management.services.diagnosis_service.evidence import (
    Evidence,
    FlowEvidence,
    HealthEvidence,
    IntegrationEvidence,
    Readability,
    ReadEvidence,
    RevocationEvidence,
    SameAccountEvidence,
    TokenEvidence,
)
from services.user_management.services.vault_service import VaultService, token_binding

FLOWS_OF: Final = timedelta(hours=25)
"""The greatest age of the connect attempts that are looked at. Older ones need not be there any more: they are removed
a day after they have expired."""


@dataclass(kw_only=True, eq=False)
class EvidenceGatherer:
    """Gathers the evidence about one user's integration with a provider from the database and the provider's
    configuration, and tries to decrypt the integration's tokens. It calls no provider."""

    providers: ProviderRegistry
    vault: VaultService

    async def gather(
        self, connection: AsyncConnection, *, user_id: str, provider: str, account: str | None
    ) -> Evidence:
        """Gather all that is known of a user's integration with `provider`: the one of `account` (id at the provider or
        e-mail), or if that is None, the primary one, or if all are disconnected, the one that ended last.

        If there is none, the evidence has no integration. Raises UserNotFoundError for an id that no user has; deleted
        users are found.
        """
        subject = await queries.read_subject(connection, user_id=user_id, provider=provider, account=account)
        if subject is None:
            raise UserNotFoundError
        held = self._integration(subject, subject.integration, user_id) if subject.integration is not None else None
        since = subject.read_at - FLOWS_OF
        flows = await queries.recent_flows(connection, user_id=user_id, provider=provider, since=since)
        reads = await queries.latest_reads(connection, user_id=user_id, provider=provider)
        return Evidence(
            now=subject.read_at,
            provider_name=provider,
            provider=self.providers.get(provider).config if provider in self.providers else None,
            user_status=subject.user_status,
            user_deleted_at=subject.user_deleted_at,
            health=_health(subject.provider),
            integration=held,
            same_account=await _same_account(connection, user_id, provider, held) if held else None,
            reads={TokenOutcome(read.outcome): ReadEvidence(read.reads, read.last_at) for read in reads},
            flows=tuple(FlowEvidence(**{**asdict(flow), "status": FlowStatus(flow.status)}) for flow in flows),
            revocation=await _revocation(connection, held) if held else None,
        )

    def _integration(self, subject: Subject, row: DiagnosedIntegration, user_id: str) -> IntegrationEvidence:
        requested = row.requested_scopes
        return IntegrationEvidence(
            id=row.id,
            provider_account_id=row.provider_account_id,
            account_email=row.account_email,
            status=IntegrationStatus(row.status),
            status_reason=row.status_reason,
            status_changed_at=row.status_changed_at,
            granted_scopes=tuple(row.granted_scopes),
            requested_scopes=None if requested is None else tuple(requested),
            connected_at=row.connected_at,
            disconnected_at=row.disconnected_at,
            last_refresh_at=row.last_refresh_at,
            last_checked_at=row.last_checked_at,
            last_failure=row.last_failure,
            last_failure_detail=row.last_failure_detail,
            last_failure_at=row.last_failure_at,
            failing_since=row.failing_since,
            refresh_failures=row.refresh_failures,
            refresh_not_before=row.refresh_not_before,
            clock_skew_seconds=row.clock_skew_seconds,
            access=self._token(subject.access, token_binding(user_id, row.id, TokenKind.ACCESS)),
            refresh=self._token(subject.refresh, token_binding(user_id, row.id, TokenKind.REFRESH)),
        )

    def _token(self, token: StoredToken | None, binding: Binding) -> TokenEvidence | None:
        if token is None:
            return None
        try:
            self.vault.open(token.ciphertext, binding, token.key_version)
        except KeyUnavailableError:
            readability = Readability.KEY_MISSING
        except PoisonedCiphertextError:
            readability = Readability.UNREADABLE
        else:
            readability = Readability.READABLE
        return TokenEvidence(token.issued_at, token.expires_at, token.key_version, readability)


def _health(provider: DiagnosedProvider | None) -> HealthEvidence | None:
    if provider is None:
        return None
    return HealthEvidence(
        state=ProviderState(provider.state),
        reason=provider.reason,
        since=provider.since,
        checked_at=provider.checked_at,
    )


async def _same_account(
    connection: AsyncConnection, user_id: str, provider: str, held: IntegrationEvidence
) -> SameAccountEvidence:
    others = await queries.same_account(
        connection,
        provider=provider,
        account_id=held.provider_account_id,
        integration_id=held.id,
        since=held.connected_at,
    )
    return SameAccountEvidence(
        own_connects=await queries.count_connects(connection, user_id=user_id, integration_id=held.id),
        other_integrations=others.integrations,
        newer_connects=others.newer_connects,
        consent_ended_at=others.consent_ended_at,
    )


async def _revocation(connection: AsyncConnection, held: IntegrationEvidence) -> RevocationEvidence | None:
    row = await queries.last_revocation(connection, held.id)
    return None if row is None else RevocationEvidence(**{**asdict(row), "state": RevocationState(row.state)})
