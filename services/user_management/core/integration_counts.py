"""What is counted about connections: names of counters in Postgres, with labels from closed sets."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.user_management.enums import IntegrationStatus, ReauthReason, RefreshEnd

NO_REASON: Final = "none"
OTHER_REASON: Final = "other"
"""For what a provider says: its codes are nobody's closed set."""


class IntegrationCounter(StrEnum):
    """What is counted."""

    TRANSITION = "transition"
    """A connection changed its status."""
    REFRESH = "refresh"
    """A refresh ended."""
    MISCONFIGURED = "misconfigured"
    """A provider refused our client."""


@dataclass(frozen=True, slots=True, order=True)
class IntegrationCount:
    """One series of one counter."""

    counter: IntegrationCounter
    provider: str
    outcome: str = ""
    """The new status, or how the refresh ended."""
    reason: str = ""


def transition(provider: str, status: IntegrationStatus, reason: str | None = None) -> IntegrationCount:
    """A connection is `status` from now on. Any `reason` but ours counts as `other`."""
    label = NO_REASON if reason is None else OTHER_REASON
    if reason in set(ReauthReason):
        label = str(reason)
    return IntegrationCount(IntegrationCounter.TRANSITION, provider, status.value, label)


def refresh(provider: str, end: RefreshEnd) -> IntegrationCount:
    """A refresh ended, and what came of it is kept."""
    return IntegrationCount(IntegrationCounter.REFRESH, provider, end.value)


def misconfigured(provider: str) -> IntegrationCount:
    """The provider refuses our client, or is not configured: an operator has to act."""
    return IntegrationCount(IntegrationCounter.MISCONFIGURED, provider)


def expected_of(provider: str) -> list[IntegrationCount]:
    """Series that are shown as 0 before anything has happened: `increase()` does not see a first 1 that comes from
    nothing."""
    return [
        *(transition(provider, IntegrationStatus.NEEDS_REAUTH, reason) for reason in ReauthReason),
        transition(provider, IntegrationStatus.REVOKED, ReauthReason.REVOKED_AT_PROVIDER),
        transition(provider, IntegrationStatus.DEGRADED, OTHER_REASON),
        transition(provider, IntegrationStatus.ACTIVE),
        transition(provider, IntegrationStatus.DISCONNECTED),
        *(refresh(provider, end) for end in RefreshEnd),
        misconfigured(provider),
    ]
