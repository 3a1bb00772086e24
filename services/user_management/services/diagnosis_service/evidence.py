"""What the rules judge by: everything that is known about one connection at one moment, and no token."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from uuid import UUID

from services.user_management.enums import (
    FlowStatus,
    IntegrationStatus,
    ProviderState,
    ReauthReason,
    RevocationState,
    TokenOutcome,
)
from services.user_management.integrations.oauth_config import ProviderConfig
from services.user_management.integrations.provider_config import OFFLINE_ACCESS

_REFUSED = frozenset({ReauthReason.GRANT_REFUSED, ReauthReason.REVOKED_AT_PROVIDER, ReauthReason.REFRESH_EXHAUSTED})
_UNREFUSED = frozenset({ReauthReason.NO_REFRESH_TOKEN, ReauthReason.SCOPE_MISSING, ReauthReason.SCOPE_UPGRADE})
"""Reasons under which the tokens are stored as the provider gave them."""
_SERVING = frozenset({IntegrationStatus.ACTIVE, IntegrationStatus.DEGRADED})


class Readability(StrEnum):
    """Whether this process can decrypt a stored token."""

    READABLE = "readable"
    KEY_MISSING = "key_missing"
    """Its key version is not held here, or is held with another secret."""
    UNREADABLE = "unreadable"
    """The ciphertext fails its authentication tag under a proven key."""


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """One stored token."""

    issued_at: datetime
    expires_at: datetime | None
    """None: it does not run out."""
    key_version: int
    readability: Readability


@dataclass(frozen=True, slots=True)
class IntegrationEvidence:
    """One row of the connections; the names are those of its columns."""

    id: UUID
    provider_account_id: str
    account_email: str | None
    status: IntegrationStatus
    status_reason: str | None
    status_changed_at: datetime
    granted_scopes: tuple[str, ...]
    requested_scopes: tuple[str, ...] | None
    connected_at: datetime
    disconnected_at: datetime | None
    last_refresh_at: datetime | None
    last_checked_at: datetime | None
    last_failure: str | None
    last_failure_detail: str | None
    last_failure_at: datetime | None
    failing_since: datetime | None
    refresh_failures: int
    refresh_not_before: datetime | None
    clock_skew_seconds: int | None
    access: TokenEvidence | None
    refresh: TokenEvidence | None

    @property
    def is_serving(self) -> bool:
        return self.status in _SERVING

    @property
    def is_refused(self) -> bool:
        """The provider has ended the grant."""
        return not self.is_serving and self.status_reason in _REFUSED

    @property
    def is_refused_without_a_cause(self) -> bool:
        """The provider has ended the grant and named nothing beneath its code."""
        refused = not self.is_serving and self.status_reason == ReauthReason.GRANT_REFUSED
        return refused and self.last_failure_detail is None

    @property
    def lacks_offline_access(self) -> bool:
        """The provider was asked for lasting access, and answered without a refresh token."""
        answered = self.is_serving or self.status_reason in _UNREFUSED
        return answered and self.refresh is None and OFFLINE_ACCESS in (self.requested_scopes or ())

    @property
    def last_worked_at(self) -> datetime:
        """The latest moment of which it is known that the grant lived."""
        # A read is no proof: a token that was issued before is handed out after the grant died.
        known = (self.connected_at, self.last_refresh_at, self.last_checked_at)
        return max(moment for moment in known if moment is not None)

    @property
    def codes(self) -> frozenset[str]:
        """What the provider said last, the code and the one beneath it."""
        return frozenset(code for code in (self.last_failure, self.last_failure_detail) if code is not None)


@dataclass(frozen=True, slots=True)
class HealthEvidence:
    """How the provider answered the periodic check."""

    state: ProviderState
    reason: str | None
    since: datetime
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class SameAccountEvidence:
    """How often the same account at the provider is connected; counts, since whose it is concerns nobody here."""

    own_connects: int
    other_connections: int
    other_serving: int
    newer_connects: int
    """Of others, after this connection was made."""
    grant_ended_at: datetime | None
    """When another connection of the account was last revoked at the provider, after this one was made."""


@dataclass(frozen=True, slots=True)
class ReadEvidence:
    """The latest token reads with one outcome."""

    reads: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class FlowEvidence:
    """One attempt to connect."""

    status: FlowStatus
    error: str | None
    created_at: datetime
    expires_at: datetime
    consumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class RevocationEvidence:
    """What became of the grant that the last disconnect gave up."""

    state: RevocationState
    attempts: int
    last_failure: str | None
    requested_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything a rule may look at."""

    now: datetime
    """The database's clock."""
    provider_name: str
    provider: ProviderConfig | None
    """None: not configured."""
    user_status: str
    user_deleted_at: datetime | None
    health: HealthEvidence | None
    connection: IntegrationEvidence | None
    same_account: SameAccountEvidence | None
    reads: Mapping[TokenOutcome, ReadEvidence]
    flows: tuple[FlowEvidence, ...]
    """The latest first."""
    revocation: RevocationEvidence | None

    @property
    def display_name(self) -> str:
        return self.provider.display_name if self.provider is not None else self.provider_name

    def describe(self, scope: str) -> str:
        """A scope with what it is for, as the provider file says."""
        purpose = self.provider.scopes.get(scope) if self.provider is not None else None
        return f"{scope} ({purpose})" if purpose else scope


def in_days(span: timedelta) -> float:
    """Days, with one digit."""
    return round(span / timedelta(days=1), 1)
