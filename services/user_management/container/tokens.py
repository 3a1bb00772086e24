"""The group of services that hand out access tokens to sibling services, and refresh them at the providers."""

from dataclasses import dataclass

from services.user_management.container.credentials import CredentialServices
from services.user_management.container.identity import IdentityServices
from services.user_management.container.keys import KeyServices
from services.user_management.container.resources import Resources
from services.user_management.services.integration_status_service import IntegrationStatusTracker
from services.user_management.services.reconnect_links import ReconnectLinks
from services.user_management.services.token_service import (
    RefreshAttempts,
    RefreshJobs,
    TokenAnswers,
    TokenExchange,
    TokenRefresher,
    TokenService,
)


@dataclass(frozen=True, kw_only=True)
class TokenServices:
    """Services that answer token reads (`service`, and `exchange` in the form of RFC 8693) and that refresh tokens when
    a read needs it (`refresher`) and in advance (`refresh_jobs`)."""

    service: TokenService
    exchange: TokenExchange
    refresher: TokenRefresher
    refresh_jobs: RefreshJobs


def build_tokens(
    resources: Resources, *, keys: KeyServices, identity: IdentityServices, credentials: CredentialServices
) -> TokenServices:
    """Build the services for tokens."""
    refresher = _build_refresher(resources, keys)
    service = TokenService(
        database=resources.database,
        refresher=refresher,
        answers=TokenAnswers(
            unit_of_work=resources.unit_of_work,
            providers=resources.providers,
            vault=keys.vault,
            status=IntegrationStatusTracker(),
            links=ReconnectLinks(resources.settings.frontend.connect_url),
            default_issuer=resources.settings.clerk.issuer,
            clock=resources.clock,
        ),
        key_usage=credentials.usage,
    )
    refresh_jobs = RefreshJobs(
        database=resources.database,
        refresher=refresher,
        start_slice=resources.start_slice,
        spread_seconds=resources.settings.refresh.spread_seconds,
    )
    return TokenServices(
        service=service,
        exchange=TokenExchange(tokens=service, sessions=identity.sessions),
        refresher=refresher,
        refresh_jobs=refresh_jobs,
    )


def _build_refresher(resources: Resources, keys: KeyServices) -> TokenRefresher:
    attempts = RefreshAttempts(
        unit_of_work=resources.unit_of_work,
        providers=resources.providers,
        oauth=resources.oauth,
        vault=keys.vault,
        status=IntegrationStatusTracker(),
        clock=resources.clock,
    )
    return TokenRefresher(
        database=resources.database,
        unit_of_work=resources.unit_of_work,
        providers=resources.providers,
        attempts=attempts,
        gate=resources.oauth.gate,
        clock=resources.clock,
        is_stopping=resources.is_stopping,
    )
