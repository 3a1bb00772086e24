"""Routes for the providers that users can connect, the integrations of the signed-in user, and the OAuth callback."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import RedirectResponse, Response

from services.user_management.auth.clerk import CurrentUser, InPerson, OwnUserId
from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.auth.guards import anonymous
from services.user_management.core.pagination import DEFAULT_LIMIT, Limit
from services.user_management.core.principal import ANONYMOUS
from services.user_management.exceptions import (
    ConflictError,
    DatabaseUnavailableError,
    FlowNotFoundError,
    FlowRefusedError,
    KeyUnavailableError,
    NeedsReauthError,
    NotConnectedError,
    PreconditionFailedError,
    ProviderAnswerError,
    ProviderMisconfiguredError,
    ProviderUnavailableError,
    RevokedError,
    UnknownProviderError,
    UserNotFoundError,
    raises,
)
from services.user_management.routers.conditional import (
    CONDITIONAL,
    IF_NONE_MATCH,
    TAGGED,
    TAGGED_CREATED,
    IfMatch,
    answer_conditionally,
)
from services.user_management.routers.integration_parameters import AccountQuery, ProviderPath
from services.user_management.routers.json_route import JSONRoute
from services.user_management.routers.strict_route import ANY_QUERY
from services.user_management.schemas.integration import (
    AuthorizeRequest,
    AuthorizeResponse,
    ConfirmRequest,
    DisconnectResponse,
    IntegrationList,
    IntegrationResponse,
    IntegrationUpdate,
    ProviderList,
)
from services.user_management.schemas.token import TokenReadPage
from services.user_management.services.integration_service import ProviderReturn

CallbackValue = Annotated[str | None, Query(max_length=2048)]

router = APIRouter(tags=["integrations"], route_class=JSONRoute)


@router.get("/providers")
async def list_providers(_user: CurrentUser, container: ContainerDependency) -> ProviderList:
    """List the providers that users can connect, and what each scope is for."""
    return container.integrations.service.list_providers()


@router.get("/users/{user_id}/integrations")
async def list_integrations(actor: CurrentUser, user_id: OwnUserId, container: ContainerDependency) -> IntegrationList:
    """List the user's integrations, except disconnected ones."""
    return await container.integrations.service.list_integrations(actor, user_id)


@router.get(
    "/users/{user_id}/integrations/{provider}",
    response_model=IntegrationResponse,
    responses=CONDITIONAL,
    openapi_extra=IF_NONE_MATCH,
)
@raises(UnknownProviderError, NotConnectedError)
async def get_integration(
    request: Request,
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    container: ContainerDependency,
    account: AccountQuery = None,
) -> Response:
    """Return the user's integration with a provider for `account`, or the primary one if `account` is not given."""
    return answer_conditionally(
        request, await container.integrations.service.get_integration(actor, user_id, provider, account)
    )


@router.patch("/users/{user_id}/integrations/{provider}", responses=TAGGED)
@raises(UnknownProviderError, UserNotFoundError, NotConnectedError, PreconditionFailedError)
async def patch_integration(
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    body: IntegrationUpdate,
    expected: IfMatch,
    container: ContainerDependency,
    response: Response,
    account: AccountQuery = None,
) -> IntegrationResponse:
    """Change the product's notes about an integration, or make it the primary one, or both, by JSON Merge Patch (RFC
    7396)."""
    changed = await container.integrations.service.update_integration(
        actor, user_id, provider, account, update=body, expected=expected
    )
    response.headers["ETag"] = changed.etag
    return changed


@router.put("/users/{user_id}/integrations/{provider}", responses=TAGGED)
@raises(UnknownProviderError, UserNotFoundError, NotConnectedError, PreconditionFailedError)
async def put_integration(
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    body: IntegrationUpdate,
    expected: IfMatch,
    container: ContainerDependency,
    response: Response,
    account: AccountQuery = None,
) -> IntegrationResponse:
    """Change an integration as `PATCH` does: a member that is left out stays as it is."""
    changed = await container.integrations.service.update_integration(
        actor, user_id, provider, account, update=body, expected=expected
    )
    response.headers["ETag"] = changed.etag
    return changed


@router.delete("/users/{user_id}/integrations/{provider}", dependencies=[InPerson])
@raises(UnknownProviderError, UserNotFoundError, NotConnectedError, PreconditionFailedError)
async def disconnect_integration(
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    expected: IfMatch,
    container: ContainerDependency,
    account: AccountQuery = None,
) -> DisconnectResponse:
    """Disconnect an integration. From then on no service can read its tokens. If the provider offers revocation, this
    service tries to revoke the tokens there until it succeeds, for at most a week."""
    return await container.integrations.service.disconnect_integration(
        actor, user_id, provider, account, expected=expected
    )


@router.put("/users/{user_id}/integrations/{provider}/refresh", responses=TAGGED)
@raises(
    UnknownProviderError,
    NotConnectedError,
    NeedsReauthError,
    RevokedError,
    ProviderUnavailableError,
    ProviderMisconfiguredError,
    KeyUnavailableError,
)
async def refresh_integration(
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    container: ContainerDependency,
    response: Response,
    account: AccountQuery = None,
) -> IntegrationResponse:
    """Refresh the tokens at the provider now, unless they were refreshed within the last ten seconds."""
    refreshed = await container.integrations.service.refresh_integration(actor, user_id, provider, account)
    response.headers["ETag"] = refreshed.etag
    return refreshed


@router.get("/users/{user_id}/integrations/{provider}/activity")
@raises(UnknownProviderError)
async def list_integration_activity(
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    container: ContainerDependency,
    limit: Annotated[Limit, Query()] = DEFAULT_LIMIT,
    cursor: Annotated[str | None, Query(max_length=512)] = None,
) -> TokenReadPage:
    """List the requests of services for the user's tokens of this provider, each with its time, reason and outcome,
    newest first."""
    return await container.integrations.service.list_activity(actor, user_id, provider, limit=limit, cursor=cursor)


@router.post("/users/{user_id}/integrations/{provider}/authorize", status_code=201, dependencies=[InPerson])
@raises(
    UnknownProviderError, NotConnectedError, UserNotFoundError, ProviderUnavailableError, ProviderMisconfiguredError
)
async def authorize_integration(
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    body: AuthorizeRequest,
    container: ContainerDependency,
) -> AuthorizeResponse:
    """Start a connect attempt. Send the browser to the `authorization_url` in the response."""
    return await container.integrations.connect_flows.start_integration(actor, user_id, provider, body)


@router.post(
    "/users/{user_id}/integrations/{provider}",
    status_code=201,
    responses=TAGGED_CREATED,
    dependencies=[InPerson],
)
@raises(
    UnknownProviderError,
    FlowNotFoundError,
    FlowRefusedError,
    ProviderAnswerError,
    ConflictError,
    UserNotFoundError,
    ProviderUnavailableError,
    ProviderMisconfiguredError,
    KeyUnavailableError,
)
async def confirm_integration(
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    body: ConfirmRequest,
    container: ContainerDependency,
    response: Response,
) -> IntegrationResponse:
    """Finish a connect attempt that this user started. The authorization code is exchanged for tokens only now."""
    connected = await container.integrations.confirmations.confirm_integration(actor, user_id, provider, body)
    response.headers["ETag"] = connected.etag
    return connected


@router.get(
    "/oauth/callback/{provider}",
    dependencies=[Depends(anonymous)],
    openapi_extra=ANY_QUERY,
    status_code=303,
    response_class=RedirectResponse,
)
@raises(UnknownProviderError, FlowNotFoundError, KeyUnavailableError, DatabaseUnavailableError)
async def receive_oauth_callback(
    provider: ProviderPath,
    container: ContainerDependency,
    state: Annotated[str, Query(max_length=256)],
    code: CallbackValue = None,
    error: CallbackValue = None,
    iss: CallbackValue = None,
) -> RedirectResponse:
    """Receive the browser when the provider redirects it back. Store the authorization code, without exchanging it yet,
    or the error, and redirect the browser to the product, where the user confirms the attempt."""
    returned = ProviderReturn(state=state, code=code, error=error, issuer=iss)
    return RedirectResponse(
        await container.integrations.connect_flows.record_provider_return(ANONYMOUS, provider, returned),
        status_code=303,
    )
