"""Routes that explain why an integration does not work, to the user who owns it and to administrators."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query

from services.user_management.auth.admin import CurrentAdmin, get_current_admin
from services.user_management.auth.clerk import CurrentUser, OwnUserId
from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.exceptions import UserNotFoundError, raises
from services.user_management.routers.integration_parameters import AccountQuery, ProviderPath
from services.user_management.routers.json_route import JSONRoute
from services.user_management.schemas.diagnosis import DiagnosisResponse
from services.user_management.schemas.user import USER_ID_PATTERN

UserId = Annotated[str, Path(pattern=USER_ID_PATTERN)]
Live = Annotated[bool, Query(description="Also ask the provider now, once, whether it accepts the access token")]

router = APIRouter(tags=["integrations"], route_class=JSONRoute)
admin_router = APIRouter(
    prefix="/admin/users", tags=["admin"], route_class=JSONRoute, dependencies=[Depends(get_current_admin)]
)


@router.get("/users/{user_id}/integrations/{provider}/diagnose")
@raises(UserNotFoundError)
async def diagnose_integration(
    actor: CurrentUser,
    user_id: OwnUserId,
    provider: ProviderPath,
    container: ContainerDependency,
    account: AccountQuery = None,
    live: Live = False,  # noqa: FBT002 - a query parameter
) -> DiagnosisResponse:
    """Explain what is wrong with an integration, what the evidence is, and who can fix it."""
    return await container.integrations.diagnosis.diagnose(actor, user_id, provider, account, live=live)


@admin_router.get("/{user_id}/integrations/{provider}/diagnose")
@raises(UserNotFoundError)
async def diagnose_integration_of_user(
    actor: CurrentAdmin,
    user_id: UserId,
    provider: ProviderPath,
    container: ContainerDependency,
    account: AccountQuery = None,
    live: Live = False,  # noqa: FBT002 - a query parameter
) -> DiagnosisResponse:
    """Explain what is wrong with an integration of any user, deleted or not, what the evidence is, and who can fix
    it."""
    return await container.integrations.diagnosis.diagnose(actor, user_id, provider, account, live=live)
