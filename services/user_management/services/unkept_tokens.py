"""Tokens that a provider issued and that no integration will hold; they are revoked, so that none is left alive."""

from services.user_management.enums import TokenKind
from services.user_management.integrations.oauth_client import TokenAnswer
from services.user_management.integrations.oauth_config import Provider
from services.user_management.queries import token_revocation as revocation_queries
from services.user_management.queries.token_revocation import Origin, SealedToken, SealedTokens
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWork


def preferred_kind(provider: Provider) -> TokenKind:
    """Return the kind of token that a provider wants to be sent when it is asked to revoke."""
    revocation = provider.config.revocation
    return TokenKind.REFRESH if revocation is None else revocation.token


def revokes_whole_consent(provider: Provider) -> bool:
    """Tell whether revoking one token ends the account's whole consent to our client, and so other integrations too."""
    revocation = provider.config.revocation
    return revocation is not None and revocation.whole_consent


async def revoke_unkept(
    uow: UnitOfWork, vault: VaultService, provider: Provider, origin: Origin, *, answer: TokenAnswer, key_version: int
) -> None:
    """Step: have the tokens of `answer` revoked, which came too late or were refused after they had been issued."""
    if not provider.config.can_revoke:
        return

    def sealed(kind: TokenKind, plaintext: str) -> SealedToken:
        binding = token_binding(origin.user_id, origin.integration_id, kind)
        return SealedToken(kind, vault.seal(plaintext, binding, key_version), key_version)

    refresh = sealed(TokenKind.REFRESH, answer.refresh_token) if answer.refresh_token is not None else None
    if refresh is not None and preferred_kind(provider) is TokenKind.REFRESH:
        unkept = SealedTokens(refresh, renewal=None, lifetime_seconds=None)
    else:
        access = sealed(TokenKind.ACCESS, answer.access_token)
        unkept = SealedTokens(access, renewal=refresh, lifetime_seconds=answer.lifetime_seconds)
    await revocation_queries.add(uow.connection, origin, unkept)
