"""Judges what a failure has cost one integration, and whether the promises about kills were kept, from three witnesses:
the answers to the driver (this benchmark), the calls that the provider received, and the rows in Postgres.

An integration (in code a connection) works when a token that was refreshed afterwards was handed out and the provider
took it. Otherwise it is lost, which is excused in one case alone: a strict provider (each refresh token works once) had
carried out a refresh whose answer nobody could store. Then the old token is used up and the new one died with the
process, and nobody can bring it back; what can be demanded is that the service says so in time.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from benchmarks.chaos.connections import Connection, State
from benchmarks.chaos.ledger import Answer
from benchmarks.chaos.witness import Call
from benchmarks.report import Promise

FLAGGED_WITHIN_SECONDS: Final = 60.0
KILLS_REACHED_PERCENT: Final = 99.0
_SERVING: Final = frozenset({"active", "degraded"})


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the witnesses say about one integration that was harmed."""

    connection: Connection
    harmed_at: datetime
    answer: Answer
    """Answer to a request for a fresh token at the end."""
    was_renewed: bool
    """Whether that request led to new tokens in the row."""
    state: State
    """The row when everything had settled, before that request."""
    calls: Sequence[Call]
    """Refresh calls of its account that the provider received before that request."""
    metered_at: datetime | None = None
    """When a scrape of the metrics first counted the integration as interrupted; None if none did."""

    @property
    def works(self) -> bool:
        """Whether the request at the end got a fresh token that the provider took."""
        return self.answer.works and self.was_renewed

    @property
    def answers_lost(self) -> int:
        """Number of refreshes that the provider carried out, but whose new tokens were not in Postgres when everything
        had settled."""
        stored = self.state.token_version - self.connection.token_version
        return sum(call.committed for call in self.calls) - stored

    @property
    def is_excused(self) -> bool:
        """Whether nobody could have kept the integration: the provider is strict, and an answer is lost."""
        return self.connection.kind == "strict" and self.answers_lost > 0

    @property
    def is_flagged(self) -> bool:
        """Whether the service says by itself that the user has to reconnect, and why: `needs_reauth` because of
        `refresh_interrupted`, with an audit row."""
        state = self.state
        said = (state.status, state.reason) == ("needs_reauth", "refresh_interrupted")
        return said and state.flagged_at is not None

    @property
    def lost_at(self) -> datetime:
        """When the tokens were lost, if they were: when the integration was harmed, or at the last call that the
        provider carried out, if that was later. A process that is killed for another integration may have been
        refreshing this one."""
        return max([self.harmed_at, *(call.at for call in self.calls if call.committed)])

    @property
    def flagged_after_seconds(self) -> float:
        """Seconds from the loss to the row in the audit log; 0 if there is no such row."""
        flagged_at = self.state.flagged_at
        return 0.0 if flagged_at is None else (flagged_at - self.lost_at).total_seconds()

    @property
    def is_unmetered(self) -> bool:
        """Whether the integration is flagged, but the metrics did not count it within a minute of the loss."""
        if not self.is_flagged:
            return False
        return self.metered_at is None or (self.metered_at - self.lost_at).total_seconds() > FLAGGED_WITHIN_SECONDS

    @property
    def is_left_active(self) -> bool:
        """Whether the integration does not work and yet had the status `active` or `degraded` when everything had
        settled."""
        return self.state.status in _SERVING and not self.works


def judge(
    name: str, evidence: Sequence[Evidence], *, kills: int, planned: int, per_point: Mapping[str, int]
) -> list[Promise]:
    """Return the promises about the kills of APIs (`name` is R1) or of workers (R2). Of the `planned` kills, `kills`
    happened; `per_point` counts these by where they happened."""
    lost = [one for one in evidence if not one.works]
    kept_kinds = [one for one in evidence if one.connection.kind != "strict"]
    strict = [one for one in evidence if one.connection.kind == "strict"]
    excused = [one for one in lost if one.is_excused]
    silent = [one for one in lost if not one.is_flagged]
    slowest = max((one.flagged_after_seconds for one in lost), default=0.0)
    out = sum(one.answers_lost > 0 for one in strict)
    return [
        Promise.at_least(
            f"{name}.kills",
            f"% of {planned} kills happened",
            100 * kills / planned,
            KILLS_REACHED_PERCENT,
            counts={"kills": kills, **per_point},
        ),
        Promise.at_most(
            f"{name}.static_overlap_grace_lost",
            f"of {len(kept_kinds)} lost",
            sum(not one.works for one in kept_kinds),
            0,
            counts={"connections": len(kept_kinds)},
        ),
        Promise.at_most(
            f"{name}.strict_lost_without_excuse",
            f"of {len(strict)} lost; {len(excused)} with the call out",
            sum(not one.works and not one.is_excused for one in strict),
            0,
            counts={"connections": len(strict), "calls_out": out, "lost_with_the_call_out": len(excused)},
        ),
        Promise.at_most(f"{name}.lost_in_silence", "lost and not flagged refresh_interrupted", len(silent), 0),
        Promise.at_most(f"{name}.flagged_after", "s until the last was flagged", slowest, FLAGGED_WITHIN_SECONDS),
        Promise.at_most(
            f"{name}.unmetered",
            f"of {sum(one.is_flagged for one in evidence)} interrupted not in the metric within a minute",
            sum(one.is_unmetered for one in evidence),
            0,
        ),
        Promise.at_most(
            f"{name}.left_active", "shown as working, not working", sum(one.is_left_active for one in evidence), 0
        ),
    ]
