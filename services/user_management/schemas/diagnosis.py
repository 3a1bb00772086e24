"""Why a connection works or does not, in words, with evidence and a way out."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from pydantic import BaseModel


class Severity(StrEnum):
    """How bad a finding is for the connection."""

    ERROR = "error"
    """No token is handed out, or soon none will be."""
    WARNING = "warning"
    """It works, with a restriction."""
    NOTICE = "notice"
    """Worth knowing."""
    GOOD = "good"


class Confidence(StrEnum):
    """How sure a finding is of its cause."""

    CERTAIN = "certain"
    """We or the provider said so."""
    LIKELY = "likely"
    """The times fit, and nothing else was said."""
    POSSIBLE = "possible"
    """Nothing speaks against it."""


class Responsible(StrEnum):
    """Who can mend it."""

    USER = "user"
    OPERATOR = "operator"
    """Whoever runs this service and owns its clients at the providers."""
    DEVELOPER = "developer"
    """Whoever builds the product on it."""
    NOBODY = "nobody"
    """It passes by itself, or nothing is wrong."""


class Finding(BaseModel):
    """One cause. `explanation` and `fix` are for people who talk to users; `evidence` holds figures and times."""

    code: str
    severity: Severity
    confidence: Confidence
    title: str
    explanation: str
    evidence: dict[str, Any]
    fix: str
    who: Responsible


class IntegrationSummary(BaseModel):
    """The connection as it stands; never a token."""

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
    """What came back when the provider was asked just now."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    """The provider does not take the access token."""
    UNAVAILABLE = "unavailable"
    MISCONFIGURED = "misconfigured"
    """It refuses our client."""
    UNKNOWN = "unknown"
    """It refused with a code that nobody knows."""
    NOT_TRIED = "not_tried"
    """There is no token to ask with: none, run out, unreadable here, or the connection is not to be used."""


class ProbeResponse(BaseModel):
    """One call to the provider, made for this answer."""

    outcome: ProbeOutcome
    code: str | None = None
    detail: str | None = None


class DiagnosisResponse(BaseModel):
    """Findings, the surest first. One of severity `good` is among them when the connection works."""

    user_id: str
    provider: str
    connection: IntegrationSummary | None
    """None: this user has never connected it."""
    findings: list[Finding]
    probe: ProbeResponse | None = None
    """Only when it was asked for."""
    checked_at: datetime
