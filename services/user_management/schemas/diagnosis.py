"""The response of the diagnosis of an integration: it explains in words why the integration works or does not, with
evidence and a remedy."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel


class Severity(StrEnum):
    """How bad a finding is for the integration."""

    ERROR = "error"
    """No token is handed out, or soon none will be."""
    WARNING = "warning"
    """The integration works, with a restriction."""
    NOTICE = "notice"
    """Nothing is wrong, but this is worth knowing."""
    GOOD = "good"


class Confidence(StrEnum):
    """How sure a finding is of its cause."""

    CERTAIN = "certain"
    """This service recorded this cause, or the provider stated it."""
    LIKELY = "likely"
    """The times of what is recorded fit this cause, and no other cause is recorded."""
    POSSIBLE = "possible"
    """Nothing contradicts this cause."""


class Responsible(StrEnum):
    """Who can act on a finding."""

    USER = "user"
    OPERATOR = "operator"
    """Whoever runs this service and owns its clients at the providers."""
    DEVELOPER = "developer"
    """Whoever builds the product on this service."""
    NOBODY = "nobody"
    """Nobody needs to act: the trouble passes by itself, or nothing is wrong."""


class Finding(BaseModel):
    """One cause of the integration's state, or something else that is worth knowing about it. `explanation` and `fix`
    are for people who talk to users; `evidence` holds the facts, such as figures, times and error codes."""

    code: str
    severity: Severity
    confidence: Confidence
    title: str
    explanation: str
    evidence: dict[str, Any]
    fix: str
    who: Responsible


class IntegrationSummary(BaseModel):
    """The integration as it is now, without its tokens."""

    id: UUID
    provider_account_id: str
    account_email: str | None
    status: str
    status_reason: str | None
    status_changed_at: datetime
    connected_at: datetime
    granted_scopes: list[str]
    has_refresh_token: bool
    access_token_expires_at: datetime | None
    last_refresh_at: datetime | None
    last_checked_at: datetime | None
    last_failure: str | None
    last_failure_detail: str | None
    last_failure_at: datetime | None


class ProbeOutcome(StrEnum):
    """The outcome of a live probe, which asks the provider whether it accepts the access token."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The provider does not accept the access token."""
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"
    """The provider refuses our client."""
    UNKNOWN = "unknown"
    """The provider refused with an error code that the provider's file does not list."""
    NOT_TRIED = "not_tried"
    """The provider was not asked: there is no integration or it serves no tokens, its user is not active, its access
    token is missing, has expired or cannot be decrypted, or the provider is not configured."""


class ProbeResponse(BaseModel):
    """The result of a live probe, made for this response. Where it is known, `code` and `detail` say why the token was
    refused, or why the probe failed or was not made."""

    outcome: ProbeOutcome
    code: str | None = None
    detail: str | None = None


class DiagnosisResponse(BaseModel):
    """The diagnosis of a user's integration with a provider. The most certain findings come first. If the integration
    works and nothing else was found, the only finding has the severity `good`."""

    user_id: str
    provider: str
    integration: IntegrationSummary | None
    """The integration; null if this user has never connected an account at the provider."""
    findings: list[Finding]
    probe: ProbeResponse | None = None
    """The result of the live probe; null unless the request asked for one."""
    checked_at: datetime
