"""The answer that explains in words why an integration works or does not, with evidence and a remedy."""

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
    """This service or the provider recorded this cause."""
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
    """One cause of the integration's state. `explanation` and `fix` are for people who talk to users; `evidence` holds
    figures and times."""

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
    """What came back when the provider was asked, for this answer, whether it accepts the access token."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The provider does not take the access token."""
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"
    """The provider refuses our client."""
    UNKNOWN = "unknown"
    """The provider refused with an unknown code."""
    NOT_TRIED = "not_tried"
    """There is no token to ask with: it is missing, expired or unreadable here, or the integration must not be used."""


class ProbeResponse(BaseModel):
    """The result of asking the provider, for this answer, whether it accepts the access token. `code` and `detail` are
    those of a refusal or failure."""

    outcome: ProbeOutcome
    code: str | None = None
    detail: str | None = None


class DiagnosisResponse(BaseModel):
    """Findings, the surest first. If the integration works and there is nothing else to say about it, there is one
    finding, of the severity `good`."""

    user_id: str
    provider: str
    integration: IntegrationSummary | None
    """The integration; null if this user has never connected an account at the provider."""
    findings: list[Finding]
    probe: ProbeResponse | None = None
    """The result of asking the provider now; null unless the request asked for it."""
    checked_at: datetime
