"""Steps (parts of a transaction) that end integrations here and queue the revocation of their tokens at the
providers."""

from typing import Literal

from services.user_management.core.integration_counts import transition
from services.user_management.enums import EventType, IntegrationStatus, RevocationState, TokenKind
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.queries import integration as integration_queries
from services.user_management.queries import token_revocation as revocation_queries
from services.user_management.queries.integration import LiveIntegration
from services.user_management.schemas.events import DisconnectedBy, IntegrationDisconnected
from services.user_management.schemas.integration import DisconnectResponse
from services.user_management.services.unkept_tokens import preferred_kind
from services.user_management.unit_of_work import UnitOfWork


async def disconnect(
    uow: UnitOfWork, providers: ProviderRegistry, held: LiveIntegration, *, by: DisconnectedBy
) -> RevocationState | None:
    """Step: end an integration whose row is locked, and delete its tokens; audit, publish and count the end. If it was
    the primary one, another integration of the user with the provider becomes primary, if there is one.

    Returns the state of the revocation at the provider: PENDING, or IMPOSSIBLE if the provider cannot revoke; None if
    there was no token to revoke.
    """
    state = await _request_revocation(uow, providers, held)
    await integration_queries.disconnect(uow.connection, held, reason=by)
    changes = {"status": [held.status, "disconnected"], "by": [None, by], "revocation": [None, state]}
    uow.audit(
        EventType.INTEGRATION_DISCONNECTED.value,
        target=("integration", str(held.id)),
        user_id=held.user_id,
        changes=changes,
    )
    uow.publish(IntegrationDisconnected(integration_id=held.id, user_id=held.user_id, provider=held.provider, by=by))
    uow.count(transition(held.provider, IntegrationStatus.DISCONNECTED))
    return state


async def disconnect_all(
    uow: UnitOfWork, providers: ProviderRegistry, user_id: str, *, by: DisconnectedBy
) -> list[DisconnectResponse]:
    """Step: end every integration of a user that is not disconnected yet, and return the response about each."""
    ended = []
    for held in await integration_queries.live_of_user(uow.connection, user_id):
        state = await disconnect(uow, providers, held, by=by)
        ended.append(disconnect_response(providers, held, state))
    return ended


def disconnect_response(
    providers: ProviderRegistry, held: LiveIntegration, state: RevocationState | None
) -> DisconnectResponse:
    """Build the response about an integration that `disconnect` has ended; `state` is what `disconnect` returned."""
    revocation: Literal["pending", "impossible", "none"] = "none"
    if state is not None:
        revocation = "pending" if state is RevocationState.PENDING else "impossible"
    configured = held.provider in providers
    return DisconnectResponse(
        id=held.id,
        provider=held.provider,
        provider_account_id=held.provider_account_id,
        revocation=revocation,
        revocation_note=providers.get(held.provider).config.revocation_note if configured else None,
    )


async def release_tokens(uow: UnitOfWork, providers: ProviderRegistry, user_id: str) -> None:
    """Step: queue the revocation of the tokens of a user who is about to be erased, for all integrations that are not
    disconnected yet. The integrations themselves are left as they are."""
    for held in await integration_queries.live_of_user(uow.connection, user_id):
        await _request_revocation(uow, providers, held)


async def _request_revocation(
    uow: UnitOfWork, providers: ProviderRegistry, held: LiveIntegration
) -> RevocationState | None:
    # A provider that is not configured now may be configured again later; only then is its way of revoking known.
    provider = providers.get(held.provider) if held.provider in providers else None
    preferred = TokenKind.REFRESH if provider is None else preferred_kind(provider)
    possible = provider is None or provider.config.can_revoke
    return await revocation_queries.request(uow.connection, held.id, preferred=preferred, possible=possible)
