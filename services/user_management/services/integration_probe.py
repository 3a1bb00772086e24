"""Asks a provider whether it accepts an integration's access token."""

from dataclasses import dataclass
from uuid import UUID

from services.user_management.database import Database
from services.user_management.enums import ProviderErrorKind, TokenKind
from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.integrations.oauth_client import OAuthClient, ProviderCallError
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.queries import integration_health as queries
from services.user_management.queries.integration_health import Candidate
from services.user_management.schemas.diagnosis import ProbeOutcome, ProbeResponse
from services.user_management.services.vault_service import VaultService, token_binding

_OUTCOMES = {
    ProviderErrorKind.REAUTH: ProbeOutcome.REFUSED,
    ProviderErrorKind.REVOKED: ProbeOutcome.REFUSED,
    ProviderErrorKind.OPERATOR: ProbeOutcome.MISCONFIGURED,
    ProviderErrorKind.TRANSIENT: ProbeOutcome.UNAVAILABLE,
    ProviderErrorKind.UNKNOWN: ProbeOutcome.UNKNOWN,
}


@dataclass(kw_only=True, eq=False)
class IntegrationProbe:
    """Calls a provider once with an integration's stored access token. It changes nothing in the database."""

    database: Database
    providers: ProviderRegistry
    oauth: OAuthClient
    vault: VaultService

    async def probe(self, held: Candidate) -> None:
        """Ask the provider with the access token of `held`, and return if it is accepted.

        Raises ProviderCallError if the provider refuses the token or cannot be asked, UnknownProviderError, and
        KeyUnavailableError or PoisonedCiphertextError if the token cannot be decrypted.
        """
        provider = self.providers.get(held.provider)
        binding = token_binding(held.user_id, held.id, TokenKind.ACCESS)
        await self.oauth.probe(provider, self.vault.open(held.ciphertext, binding, held.key_version))

    async def ask_about(self, integration_id: UUID) -> ProbeResponse:
        """Probe an integration on behalf of a person: failures are returned as an outcome, not raised.

        The outcome is NOT_TRIED if the integration serves no tokens, its user is not active, its access token is
        missing, has expired or cannot be decrypted, or its provider is not configured.
        """
        async with self.database.reading() as connection:
            held = await queries.find_candidate(connection, integration_id)
        if held is None or held.expired or held.provider not in self.providers:
            return ProbeResponse(outcome=ProbeOutcome.NOT_TRIED)
        try:
            await self.probe(held)
        except (KeyUnavailableError, PoisonedCiphertextError) as error:
            return ProbeResponse(outcome=ProbeOutcome.NOT_TRIED, code=error.code)
        except ProviderCallError as error:
            return ProbeResponse(outcome=_OUTCOMES[error.kind], code=error.code, detail=error.detail)
        return ProbeResponse(outcome=ProbeOutcome.ACCEPTED)
