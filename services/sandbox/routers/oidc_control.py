"""What a test or a person does to a provider from outside."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, ValidationError

from services.sandbox.dependencies import CurrentProvider
from services.sandbox.errors import SandboxError
from services.sandbox.ledger import fingerprint
from services.sandbox.oidc.grants import Grant
from services.sandbox.oidc.settings import ProviderSettings

router = APIRouter(prefix="/oidc/{kind}/_control")


class Expiry(BaseModel):
    """Whose access tokens; everybody's where `account` (id or e-mail) is missing."""

    model_config = ConfigDict(extra="forbid")

    account: str | None = None


class Revocation(BaseModel):
    """Whose consent, by account id or e-mail."""

    account: str


class ClockOffset(BaseModel):
    """How far ahead the provider's clock is."""

    seconds: int


class NewGrant(BaseModel):
    """A grant to make without the dance."""

    account: str
    scopes: list[str]


@router.post("/expire")
async def expire(provider: CurrentProvider, wanted: Expiry | None = None) -> dict[str, int]:
    """Access tokens stop working now."""
    return {"expired": provider.expire_access_tokens(wanted.account if wanted else None)}


@router.post("/revoke")
async def revoke(provider: CurrentProvider, wanted: Revocation) -> dict[str, int]:
    """The person takes the consent back."""
    return {"revoked": provider.revoke_account(wanted.account)}


@router.post("/clock-offset")
async def set_clock_offset(provider: CurrentProvider, wanted: ClockOffset) -> ProviderSettings:
    """Move the provider's clock."""
    provider.settings.clock_offset_seconds = wanted.seconds
    return provider.settings


@router.get("/settings")
async def read_settings(provider: CurrentProvider) -> ProviderSettings:
    """The present settings."""
    return provider.settings


@router.post("/settings")
async def change_settings(provider: CurrentProvider, changes: dict[str, Any]) -> ProviderSettings:
    """Change some settings; the others stay."""
    try:
        provider.settings = ProviderSettings.model_validate(provider.settings.model_dump() | changes)
    except ValidationError as problem:
        raise SandboxError(422, str(problem)) from problem
    return provider.settings


@router.post("/grants", status_code=201)
async def issue_grant(provider: CurrentProvider, wanted: NewGrant) -> dict[str, Any]:
    """A token answer for a new grant."""
    return provider.issue(wanted.account, tuple(wanted.scopes)).as_json()


@router.get("/grants")
async def list_grants(provider: CurrentProvider, account: str | None = None) -> dict[str, Any]:
    """Grants with their fate: what a crash test compares with the service's own view."""
    return {"items": [_grant_json(grant) for grant in provider.grants(account)]}


def _grant_json(grant: Grant) -> dict[str, Any]:
    newest = grant.refresh_tokens[-1].value if grant.refresh_tokens else None
    return {
        "id": grant.id,
        "account": grant.account.id,
        "email": grant.account.email,
        "scopes": list(grant.scopes),
        "alive": grant.alive,
        "revoked_because": grant.revoked_because,
        "refresh_tokens_issued": len(grant.refresh_tokens),
        "newest_refresh_token": fingerprint(newest),
    }
