"""The routes by which sibling services (programs that call us with a key) get and refresh users' access tokens, and
read users' profiles."""

from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request

from services.user_management.auth.dependencies import ContainerDependency, get_container
from services.user_management.auth.service_auth import permitted, service_credential
from services.user_management.auth.token_caller import count_read, known_caller, token_caller
from services.user_management.core.principal import Principal
from services.user_management.enums import ServicePermission
from services.user_management.exceptions import (
    GrantDeniedError,
    InsufficientScopeError,
    KeyUnavailableError,
    NeedsReauthError,
    NotConnectedError,
    ProviderMisconfiguredError,
    ProviderUnavailableError,
    ReasonRequiredError,
    RevokedError,
    UnknownProviderError,
    UserInactiveError,
    UserNotFoundError,
    raises,
)
from services.user_management.routers.direct_route import DirectRoute
from services.user_management.routers.json_route import JSONRoute, body_up_to
from services.user_management.schemas.token import TokenBatch, TokenBatchRequest, TokenRequest, TokenResponse
from services.user_management.schemas.user import UserBatch, UserBatchRequest

MAX_BATCH_BYTES: Final = 1 << 20
"""Limit of the body of a batch of token requests, in bytes. Not every batch that the schema allows fits: 100 items with
64 scopes of 256 characters each, account, reason and user id would be 1.9 MB. With 64 scopes of 50 characters, as
Google's are, they are 400 kB."""

hot_router = APIRouter(
    prefix="/internal/tokens", tags=["internal"], route_class=DirectRoute, dependencies=[Depends(token_caller)]
)
get_profile_reader = permitted(ServicePermission.USERS_READ)
router = APIRouter(prefix="/internal/users", tags=["internal"], route_class=JSONRoute)
TOKEN_REFUSALS: Final = (
    UserNotFoundError,
    UserInactiveError,
    UnknownProviderError,
    NotConnectedError,
    GrantDeniedError,
    ReasonRequiredError,
    InsufficientScopeError,
    NeedsReauthError,
    RevokedError,
    ProviderUnavailableError,
    ProviderMisconfiguredError,
    KeyUnavailableError,
)
"""The errors with which a request for one token may be refused, besides those that the router's dependency
`token_caller` raises."""


@hot_router.post("/get")
@raises(*TOKEN_REFUSALS)
async def get_token(request: Request, body: TokenRequest) -> TokenResponse:
    """Return a usable access token of one user for one provider, or a problem whose `type` says why there is none."""
    return await get_container(request).tokens.service.get_valid_token(service_credential(request), body)


@hot_router.post("/refresh")
@raises(*TOKEN_REFUSALS)
async def refresh_token(request: Request, body: TokenRequest) -> TokenResponse:
    """Return a newer access token, because the provider has just refused the present one. A token that was issued less
    than ten seconds ago is returned again, and so, while it is valid, is one that cannot be refreshed for lack of a
    refresh token."""
    return await get_container(request).tokens.service.refresh_token(service_credential(request), body)


@hot_router.post("/batch-get", dependencies=[Depends(known_caller), Depends(body_up_to(MAX_BATCH_BYTES))])
async def batch_get_tokens(request: Request, body: TokenBatchRequest) -> TokenBatch:
    """Answer up to 100 token requests, in their order, each with the token or the problem that it would get by itself.
    Each counts as a read against the caller's rate limit."""
    credential = service_credential(request)
    count_read(request, credential, reads=len(body.items) - 1)
    return TokenBatch(items=await get_container(request).tokens.service.get_many(credential, body.items))


@router.post("/batch-get", dependencies=[Depends(get_profile_reader)])
async def batch_get_users(
    reader: Annotated[Principal, Depends(get_profile_reader)], body: UserBatchRequest, container: ContainerDependency
) -> UserBatch:
    """Return the profiles of up to 100 users, and as `missing` the ids that belong to no user or to a deleted one."""
    return await container.users.administration.batch_get(reader, body.user_ids)
