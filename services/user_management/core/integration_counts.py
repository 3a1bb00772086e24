"""The counters about integrations that are kept in Postgres: their names, and their labels, which come from closed
sets."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from services.user_management.enums import IntegrationStatus, ReauthReason, RefreshEnd

NO_REASON: Final = "none"
OTHER_REASON: Final = "other"
"""The label in place of a provider's own codes, which are no closed set."""


class IntegrationCounter(StrEnum):
    """The names of the counters."""

    TRANSITION = "transition"
    """Changes of an integration's status."""
    REFRESH = "refresh"
    """Refreshes that ended."""
    MISCONFIGURED = "misconfigured"
    """Cases in which a provider refused our client, or was not configured any more."""


@dataclass(frozen=True, slots=True, order=True)
class IntegrationCount:
    """One series of one counter: the counter with its labels."""

    counter: IntegrationCounter
    provider: str
    outcome: str = ""
    """For a transition, the new status; for a refresh, how it ended; otherwise empty."""
    reason: str = ""
    """For a transition, our own reason, `none` or `other`; otherwise empty."""


def transition(provider: str, status: IntegrationStatus, reason: str | None = None) -> IntegrationCount:
    """Return the series for an integration that changes to `status`. Its reason is `none` if `reason` is None, and
    `other` if `reason` is not a ReauthReason."""
    label = NO_REASON if reason is None else OTHER_REASON
    if reason in set(ReauthReason):
        label = str(reason)
    return IntegrationCount(IntegrationCounter.TRANSITION, provider, status.value, label)


def refresh(provider: str, end: RefreshEnd) -> IntegrationCount:
    """Return the series for a refresh that ended in `end` and whose outcome is stored."""
    return IntegrationCount(IntegrationCounter.REFRESH, provider, end.value)


def misconfigured(provider: str) -> IntegrationCount:
    """Return the series for a provider that refuses our client or is not configured, so that an operator has to act."""
    return IntegrationCount(IntegrationCounter.MISCONFIGURED, provider)


def expected_of(provider: str) -> list[IntegrationCount]:
    """Return the series of `provider` that are shown as 0 before anything has happened: Prometheus's `increase()` does
    not count the first 1 of a series that did not exist before."""
    return [
        *(transition(provider, IntegrationStatus.NEEDS_REAUTH, reason) for reason in ReauthReason),
        transition(provider, IntegrationStatus.REVOKED, ReauthReason.REVOKED_AT_PROVIDER),
        transition(provider, IntegrationStatus.DEGRADED, OTHER_REASON),
        transition(provider, IntegrationStatus.ACTIVE),
        transition(provider, IntegrationStatus.DISCONNECTED),
        *(refresh(provider, end) for end in RefreshEnd),
        misconfigured(provider),
    ]
