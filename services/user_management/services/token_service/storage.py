"""Seals and stores the tokens that a provider issued."""

from uuid import UUID

from services.user_management.enums import TokenKind
from services.user_management.integrations.oauth_client import TokenAnswer
from services.user_management.queries.token_refresh import NewToken, put_token
from services.user_management.services.vault_service import VaultService, token_binding
from services.user_management.unit_of_work import UnitOfWork


async def store_tokens(
    uow: UnitOfWork, vault: VaultService, answer: TokenAnswer, *, user_id: str, integration_id: UUID, key_version: int
) -> None:
    """Step: seal the tokens of `answer` under `key_version` and store them as those of the integration. If `answer` has
    no refresh token, the stored one stays. The access token's lifetime is counted from the moment when the request was
    sent. Raises KeyUnavailableError."""
    elapsed = uow.clock.monotonic() - answer.sent_at
    lifetime = None if answer.lifetime_seconds is None else answer.lifetime_seconds - elapsed
    plaintexts: list[tuple[TokenKind, str, float | None]] = [(TokenKind.ACCESS, answer.access_token, lifetime)]
    if answer.refresh_token is not None:
        plaintexts.append((TokenKind.REFRESH, answer.refresh_token, None))
    for kind, plaintext, seconds in plaintexts:
        # Sealing takes microseconds and no I/O, so it may be done inside the transaction.
        ciphertext = vault.seal(plaintext, token_binding(user_id, integration_id, kind), key_version)
        await put_token(uow.connection, integration_id, NewToken(kind, ciphertext, key_version, seconds))
