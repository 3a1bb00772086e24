"""Queues the revocation of tokens that a provider issued and no integration will hold, so that no token stays valid
that nobody uses; and tells which kind of token to send for a revocation, and whether that ends the whole consent."""

from services.user_management.enums import TokenKind
from services.user_management.integrations.oauth_client import TokenAnswer
from services.user_management.integrations.oauth_config import Provider
from services.user_management.queries import token_revocation as revocation_queries
from services.user_management.queries.token_revocation import Origin, SealedToken, SealedTokens
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWork


def preferred_kind(provider: Provider) -> TokenKind:
    """Return which kind of token to send to the provider for a revocation; REFRESH if the provider cannot revoke."""
    revocation = provider.config.revocation
    return TokenKind.REFRESH if revocation is None else revocation.token


def revokes_whole_consent(provider: Provider) -> bool:
    """Tell whether the revocation of one token ends the account's whole consent to our client, and so the tokens of
    other integrations with the same account too."""
    revocation = provider.config.revocation
    return revocation is not None and revocation.whole_consent


async def revoke_unkept(
    uow: UnitOfWork, vault: VaultService, provider: Provider, origin: Origin, *, answer: TokenAnswer, key_version: int
) -> None:
    """Step: queue the revocation of the tokens in `answer`, a token endpoint's answer that came too late to be stored
    or was refused by us. Nothing is queued if the provider cannot revoke.

    The tokens are sealed under `key_version`; `origin` says whose they are. Raises KeyUnavailableError.
    """
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
