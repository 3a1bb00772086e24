"""The evidence that the rules of the diagnosis look at: all that is known about one integration at one moment, without
its tokens."""

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
"""Reasons why an integration serves no tokens although its provider refused nothing. The stored tokens are then those
that the provider last issued."""
_SERVING = frozenset({IntegrationStatus.ACTIVE, IntegrationStatus.DEGRADED})


class Readability(StrEnum):
    """Whether this process can decrypt a stored token."""

    READABLE = "readable"
    KEY_MISSING = "key_missing"
    """This process does not hold the token's key version, or holds another secret under that number."""
    UNREADABLE = "unreadable"
    """The stored value is damaged: it cannot be decrypted although the key is proven to be the right one."""


@dataclass(frozen=True, slots=True)
class TokenEvidence:
    """Facts about one stored token, without the token itself."""

    issued_at: datetime
    expires_at: datetime | None
    """When the token expires; None: never, as far as is known."""
    key_version: int
    readability: Readability


@dataclass(frozen=True, slots=True)
class IntegrationEvidence:
    """One row of `integrations`, under the names of its columns, with facts about its access token and its refresh
    token; `access` or `refresh` is None where there is no such token."""

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
        """Whether the integration does not work because the provider has ended the consent, or has refused every
        refresh for days."""
        return not self.is_serving and self.status_reason in _REFUSED

    @property
    def is_refused_without_a_cause(self) -> bool:
        """Whether the integration does not work because the provider refused its token, and gave an error code but no
        more detailed code."""
        refused = not self.is_serving and self.status_reason == ReauthReason.GRANT_REFUSED
        return refused and self.last_failure_detail is None

    @property
    def lacks_offline_access(self) -> bool:
        """Whether the provider was asked for the scope `offline_access` and gave no refresh token. False if the
        integration ended for a reason that leaves this open, such as a refusal."""
        answered = self.is_serving or self.status_reason in _UNREFUSED
        return answered and self.refresh is None and OFFLINE_ACCESS in (self.requested_scopes or ())

    @property
    def last_worked_at(self) -> datetime:
        """The latest moment at which the consent is known to have been in force: a connect, refresh or check."""
        # A token read proves nothing: a token that was issued earlier is handed out even after the consent has ended.
        known = (self.connected_at, self.last_refresh_at, self.last_checked_at)
        return max(moment for moment in known if moment is not None)

    @property
    def codes(self) -> frozenset[str]:
        """The codes of the provider's last error: the error code, and the more detailed code if there was one."""
        return frozenset(code for code in (self.last_failure, self.last_failure_detail) if code is not None)


@dataclass(frozen=True, slots=True)
class HealthEvidence:
    """The provider's state, as the periodic check of integrations last found it."""

    state: ProviderState
    reason: str | None
    since: datetime
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class SameAccountEvidence:
    """Facts about connects of the diagnosed integration's account at the provider, by this user and by others: only
    numbers and times, since the names of other users stay private."""

    own_connects: int
    """How often this user has connected the account, as far back as the audit goes."""
    other_integrations: int
    """How many other users' integrations of the account there are, disconnected ones too; counted up to fifty."""
    newer_connects: int
    """How often these other integrations have been connected since the diagnosed one was."""
    consent_ended_at: datetime | None
    """When one of these other integrations was last revoked at the provider, if that was after the diagnosed one was
    connected; otherwise None."""


@dataclass(frozen=True, slots=True)
class ReadEvidence:
    """The number of token reads (requests of services for a token) with one outcome, among the latest ones of this user
    and provider, and the time of the last read with this outcome."""

    reads: int
    last_at: datetime


@dataclass(frozen=True, slots=True)
class FlowEvidence:
    """One connect attempt, also called a flow: from `authorize` to the confirmation."""

    status: FlowStatus
    error: str | None
    created_at: datetime
    expires_at: datetime
    consumed_at: datetime | None


@dataclass(frozen=True, slots=True)
class RevocationEvidence:
    """The latest revocation of the integration's tokens at the provider, and how far it has come."""

    state: RevocationState
    attempts: int
    last_failure: str | None
    requested_at: datetime
    finished_at: datetime | None
    next_attempt_at: datetime | None


@dataclass(frozen=True, slots=True)
class Evidence:
    """All evidence about one integration of one user. Parts of which nothing is known are None or empty."""

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
        """Return `scope` with its purpose in brackets, if the provider's file states one; otherwise `scope` alone."""
        purpose = self.provider.scopes.get(scope) if self.provider is not None else None
        return f"{scope} ({purpose})" if purpose else scope


def in_days(span: timedelta) -> float:
    """Return a span of time in days, rounded to one decimal place."""
    return round(span / timedelta(days=1), 1)
