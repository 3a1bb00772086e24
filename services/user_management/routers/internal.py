"""For sibling services."""

from fastapi import APIRouter, Request

from services.user_management.auth.dependencies import get_container
from services.user_management.auth.service_auth import service_credential
from services.user_management.routers.json_route import DirectRoute
from services.user_management.schemas.token import TokenRequest, TokenResponse

router = APIRouter(
    prefix="/internal/tokens",
    tags=["internal"],
    route_class=DirectRoute,
)


@router.post("/get", openapi_extra={"security": [{"serviceKey": []}, {"serviceKeyHeader": []}]})
async def get_token(request: Request, body: TokenRequest) -> TokenResponse:
    """A usable access token of one user for one provider, or one typed refusal."""
    return await get_container(request).tokens.get_valid_token(service_credential(request), body)
