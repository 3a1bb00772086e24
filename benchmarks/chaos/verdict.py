"""What a kill has cost, from three witnesses: the driver's answers, the provider's calls, the rows.

A connection works when a token that was refreshed afterwards was handed out and the provider took it. Otherwise it is
lost, which is excused in one case alone: a strict provider had carried a refresh out whose answer nobody could store.
Then the old token is used up and the new one died with the process, and nobody can bring it back; what can be
demanded is that it is said, in time.
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
    """What the witnesses say about one connection that was hit."""

    connection: Connection
    harmed_at: datetime
    answer: Answer
    """To somebody who asked at the end."""
    was_renewed: bool
    """The tokens in the row were replaced for them."""
    state: State
    """When everything had settled, before anybody asked."""
    calls: Sequence[Call]
    """Of its account, at the provider, until everything had settled."""
    metered_at: datetime | None = None
    """When a scrape of the metrics first counted it as interrupted."""

    @property
    def works(self) -> bool:
        """There was a fresh token, and it was good."""
        return self.answer.works and self.was_renewed

    @property
    def answers_lost(self) -> int:
        """Refreshes that the provider carried out and whose answer is not in Postgres, when everything had settled."""
        stored = self.state.token_version - self.connection.token_version
        return sum(call.committed for call in self.calls) - stored

    @property
    def is_excused(self) -> bool:
        """Nobody could have kept it."""
        return self.connection.kind == "strict" and self.answers_lost > 0

    @property
    def is_flagged(self) -> bool:
        """The service says of its own accord that the user is needed, and why."""
        state = self.state
        said = (state.status, state.reason) == ("needs_reauth", "refresh_interrupted")
        return said and state.flagged_at is not None

    @property
    def lost_at(self) -> datetime:
        """When the tokens were lost, if they were: with the kill, or with the last call that the provider carried out.
        A process that is killed for another connection may have been refreshing this one."""
        return max([self.harmed_at, *(call.at for call in self.calls if call.committed)])

    @property
    def flagged_after_seconds(self) -> float:
        """From the loss to the row in the audit log."""
        flagged_at = self.state.flagged_at
        return 0.0 if flagged_at is None else (flagged_at - self.lost_at).total_seconds()

    @property
    def is_unmetered(self) -> bool:
        """Its user is needed because of the kill, and whoever watches the metrics was not told in time."""
        if not self.is_flagged:
            return False
        return self.metered_at is None or (self.metered_at - self.lost_at).total_seconds() > FLAGGED_WITHIN_SECONDS

    @property
    def is_left_active(self) -> bool:
        """It is shown as working, and does not work."""
        return self.state.status in _SERVING and not self.works


def judge(
    name: str, evidence: Sequence[Evidence], *, kills: int, planned: int, per_point: Mapping[str, int]
) -> list[Promise]:
    """The promises about one kind of victim."""
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
