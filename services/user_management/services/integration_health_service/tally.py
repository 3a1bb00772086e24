"""The tallies of one run of the periodic check of integrations: for each provider, how often it answered or failed, and
whether it refuses our client. From them follow the provider's state, if the run has seen enough to tell, and whether
the rest of the run leaves the provider alone."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Final, Self

from services.user_management.core.json_types import JSONObject
from services.user_management.enums import ProviderState

DOWN_AFTER: Final = 3
"""After how many failures in a row the provider is considered down and is left alone."""


@dataclass(slots=True)
class Tally:
    """Counts of what one run has seen of one provider; `reason` is the code of its last failure."""

    answered: int = 0
    failed: int = 0
    failed_in_a_row: int = 0
    reason: str | None = None
    misconfigured: bool = False
    postponed: bool = False
    """Whether the provider asked for fewer calls, or cannot be probed at all; neither tells its state."""


class Tallies:
    """The tallies of one run, by the name of the provider."""

    def __init__(self, tallies: Mapping[str, Tally]) -> None:
        self._tallies = dict(tallies)

    @classmethod
    def of_json(cls, document: JSONObject) -> Self:
        return cls({name: Tally(**fields) for name, fields in document.items()})

    def to_json(self) -> JSONObject:
        return {name: asdict(tally) for name, tally in self._tallies.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._tallies)

    def note_answer(self, provider: str) -> None:
        """Count that the provider answered for one integration, whatever the answer was."""
        tally = self._of(provider)
        tally.answered += 1
        tally.failed_in_a_row = 0

    def note_failure(self, provider: str, reason: str) -> None:
        """Count that the provider gave no answer, or one that reports a failure of the provider; `reason` is its
        code."""
        tally = self._of(provider)
        tally.failed += 1
        tally.failed_in_a_row += 1
        tally.reason = reason

    def note_misconfigured(self, provider: str, reason: str) -> None:
        """Record that the provider refuses our client. One such answer decides the provider's state."""
        tally = self._of(provider)
        tally.misconfigured = True
        tally.reason = reason

    def postpone(self, provider: str) -> None:
        """Leave the provider alone for the rest of this run, without counting an answer or a failure."""
        self._of(provider).postponed = True

    def is_left_alone(self, provider: str) -> bool:
        """Tell whether the provider is not called again in this run: it refuses our client, is down, or was
        postponed."""
        tally = self._of(provider)
        return tally.misconfigured or tally.postponed or tally.failed_in_a_row >= DOWN_AFTER

    def has_answered(self, provider: str) -> bool:
        return self._of(provider).answered > 0

    def verdict(self, provider: str) -> tuple[ProviderState, str | None] | None:
        """Return the provider's state, with the code of the last failure as its reason (None if it is up). Return None
        if the run has seen neither an answer nor a failure of the provider."""
        tally = self._of(provider)
        if tally.misconfigured:
            return ProviderState.MISCONFIGURED, tally.reason
        if tally.failed_in_a_row >= DOWN_AFTER or (tally.failed > 0 and tally.answered == 0):
            return ProviderState.DOWN, tally.reason
        return (ProviderState.UP, None) if tally.answered > 0 else None

    def _of(self, provider: str) -> Tally:
        return self._tallies.setdefault(provider, Tally())
