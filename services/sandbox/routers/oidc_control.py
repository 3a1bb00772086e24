"""The routes by which a test or a person looks at a provider of the sandbox and changes it: its settings, clock,
consents and tokens."""

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.sandbox.dependencies import ControlledProvider
from services.sandbox.errors import SandboxError
from services.sandbox.ledger import fingerprint
from services.sandbox.oidc.grants import Grant
from services.sandbox.oidc.settings import DAY_SECONDS

router = APIRouter()
"""Mounted under `/oidc/{kind}/_control` and `/as/_control/{kind}`, both for plain providers (`strict`) and imitations
(`google`)."""


class Expiry(BaseModel):
    """The account (id or e-mail) whose access tokens expire; everybody's expire if no account is named."""

    model_config = ConfigDict(extra="forbid")

    account: str | None = None


class Revocation(BaseModel):
    """The account (id or e-mail) whose consents end, and the reason, by which some providers choose an error code.

    Google: `invalid_rapt`, `admin_policy_enforced`. Microsoft: `password_changed`, `mfa_required`, `consent_required`,
    `idle`, `spa_lifetime`. Slack: `account_inactive`.
    """

    model_config = ConfigDict(extra="forbid")

    account: str
    reason: str = "revoked_by_user"


class Age(BaseModel):
    """The days by which the tokens of an account (id or e-mail) grow older; everybody's do if no account is named."""

    model_config = ConfigDict(extra="forbid")

    days: float = Field(gt=0)
    account: str | None = None


class ClockOffset(BaseModel):
    """The seconds by which the provider's clock is ahead."""

    seconds: int


class NewGrant(BaseModel):
    """A consent to make without an authorization request. `parameters` are those that the request would have had, by
    default such that a refresh token comes with the consent, if the provider gives one for these scopes."""

    account: str
    scopes: list[str]
    parameters: dict[str, str] | None = None


@router.post("/expire")
async def expire(provider: ControlledProvider, wanted: Expiry | None = None) -> dict[str, int]:
    """Make access tokens expire now: those of one account or, without a body, all. Returns how many expired."""
    return {"expired": provider.expire_access_tokens(wanted.account if wanted else None)}


@router.post("/revoke")
async def revoke(provider: ControlledProvider, wanted: Revocation) -> dict[str, int]:
    """End the consents of an account, as the person or a policy would. Returns how many ended."""
    return {"revoked": provider.revoke_account(wanted.account, wanted.reason)}


@router.post("/age")
async def age(provider: ControlledProvider, wanted: Age) -> dict[str, int]:
    """Make the tokens that were issued so far `days` older. Returns how many consents that concerns."""
    return {"aged": provider.age(wanted.days * DAY_SECONDS, wanted.account)}


@router.post("/reset")
async def reset(provider: ControlledProvider) -> dict[str, Any]:
    """Forget every account, consent and setting, and return the default settings."""
    provider.forget()
    return provider.settings.model_dump()


@router.post("/clock-offset")
async def set_clock_offset(provider: ControlledProvider, wanted: ClockOffset) -> dict[str, Any]:
    """Set by how much the provider's clock is ahead of the real one, and return the settings."""
    provider.settings.clock_offset_seconds = wanted.seconds
    return provider.settings.model_dump()


@router.get("/settings")
async def read_settings(provider: ControlledProvider) -> dict[str, Any]:
    """Return the present settings."""
    return provider.settings.model_dump()


@router.post("/settings")
async def change_settings(provider: ControlledProvider, changes: dict[str, Any]) -> dict[str, Any]:
    """Change the settings that are named, and return all. 422 for an unknown or invalid one."""
    try:
        provider.settings = type(provider.settings).model_validate(provider.settings.model_dump() | changes)
    except ValidationError as problem:
        raise SandboxError(422, str(problem)) from problem
    return provider.settings.model_dump()


@router.post("/grants", status_code=201)
async def issue_grant(provider: ControlledProvider, wanted: NewGrant) -> dict[str, Any]:
    """Make a consent without an authorization request, and return what the provider answers to a code."""
    persona = provider.persona
    tokens = provider.issue(wanted.account, persona.parse_scopes(" ".join(wanted.scopes)), wanted.parameters)
    return persona.exchange_answer(tokens, provider.accounts.get(wanted.account))


@router.get("/grants")
async def list_grants(provider: ControlledProvider, account: str | None = None) -> dict[str, Any]:
    """Return the consents of one account or of all, with whether each is alive, and how many of its refresh tokens are
    alive. Crash tests compare this with the integrations that user management has."""
    return {"items": [_grant_json(grant) for grant in provider.grants(account)]}


def _grant_json(grant: Grant) -> dict[str, Any]:
    newest = grant.refresh_tokens[-1].value if grant.refresh_tokens else None
    alive = sum(token.alive for token in grant.refresh_tokens)
    return {
        "id": grant.id,
        "account": grant.account.id,
        "email": grant.account.email,
        "scopes": list(grant.scopes),
        "alive": grant.alive,
        "revoked_because": grant.revoked_because,
        "refresh_tokens_issued": len(grant.refresh_tokens),
        "refresh_tokens_alive": alive,
        "newest_refresh_token": fingerprint(newest),
    }
