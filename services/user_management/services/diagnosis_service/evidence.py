"""The evidence by which the rules judge: all that is known about one integration at one moment, without its tokens."""

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
    """What is known of one stored token, without the token."""

    issued_at: datetime
    expires_at: datetime | None
    """When the token runs out; None: never."""
    key_version: int
    readability: Readability


@dataclass(frozen=True, slots=True)
class IntegrationEvidence:
    """One row of `integrations` under the names of its columns, with what is known of its tokens."""

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
        """Whether the provider has ended the consent."""
        return not self.is_serving and self.status_reason in _REFUSED

    @property
    def is_refused_without_a_cause(self) -> bool:
        """Whether the provider has ended the consent and gave no detail beside its error code."""
        refused = not self.is_serving and self.status_reason == ReauthReason.GRANT_REFUSED
        return refused and self.last_failure_detail is None

    @property
    def lacks_offline_access(self) -> bool:
        """Whether the provider was asked for lasting access and answered without a refresh token."""
        answered = self.is_serving or self.status_reason in _UNREFUSED
        return answered and self.refresh is None and OFFLINE_ACCESS in (self.requested_scopes or ())

    @property
    def last_worked_at(self) -> datetime:
        """The latest moment at which the consent is known to have been alive."""
        # A token read proves nothing: a token that was issued earlier is handed out even after the consent has ended.
        known = (self.connected_at, self.last_refresh_at, self.last_checked_at)
        return max(moment for moment in known if moment is not None)

    @property
    def codes(self) -> frozenset[str]:
        """The provider's last error: its code, and the more detailed code if there was one."""
        return frozenset(code for code in (self.last_failure, self.last_failure_detail) if code is not None)


@dataclass(frozen=True, slots=True)
class HealthEvidence:
    """What the periodic check knows of the provider's state."""

    state: ProviderState
    reason: str | None
    since: datetime
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class SameAccountEvidence:
    """How often the same account at the provider is connected. Only counts: other users' names stay private."""

    own_connects: int
    other_integrations: int
    newer_connects: int
    """How often other users have connected the account since this integration was connected."""
    consent_ended_at: datetime | None
    """When another integration of the account was last revoked at the provider since this one was connected."""


@dataclass(frozen=True, slots=True)
class ReadEvidence:
    """The number of the latest token reads with one outcome, and the time of the last."""

    reads: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class FlowEvidence:
    """One connect attempt."""

    status: FlowStatus
    error: str | None
    created_at: datetime
    expires_at: datetime
    consumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class RevocationEvidence:
    """What became of the revocation that the last disconnect asked the provider for."""

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
    """The time by the database's clock."""
    provider_name: str
    provider: ProviderConfig | None
    """The provider's configuration; None: it is not configured."""
    user_status: str
    user_deleted_at: datetime | None
    health: HealthEvidence | None
    integration: IntegrationEvidence | None
    same_account: SameAccountEvidence | None
    reads: Mapping[TokenOutcome, ReadEvidence]
    flows: tuple[FlowEvidence, ...]
    """Recent connect attempts, the latest first."""
    revocation: RevocationEvidence | None

    @property
    def display_name(self) -> str:
        return self.provider.display_name if self.provider is not None else self.provider_name

    def describe(self, scope: str) -> str:
        """Return a scope with its purpose, as the provider file states it."""
        purpose = self.provider.scopes.get(scope) if self.provider is not None else None
        return f"{scope} ({purpose})" if purpose else scope


def in_days(span: timedelta) -> float:
    """Return a span of time in days, rounded to one decimal place."""
    return round(span / timedelta(days=1), 1)
