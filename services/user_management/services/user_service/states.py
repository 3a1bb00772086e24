"""Who a session belongs to and whether they may act, remembered for two seconds."""

from collections import OrderedDict
from typing import Final

from services.user_management.core.clock import Clock
from services.user_management.database import Database
from services.user_management.queries import user as user_queries
from services.user_management.queries.user_rows import ResolvedUser

CACHE_SECONDS: Final = 2.0
CACHE_SIZE: Final = 10_000


class UserStates:
    """Resolves (issuer, subject). A suspension is seen at once by the process that made it, by others within 2 s."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, ResolvedUser]] = OrderedDict()
        self._changes = 0

    async def find(self, issuer: str, subject: str, *, fresh: bool = False) -> ResolvedUser | None:
        """The user who signs in as (issuer, subject); None, never remembered, when nobody does. `fresh`: ask anyway."""
        key = (issuer, subject)
        cached = self._known.get(key)
        now, changes = self._clock.monotonic(), self._changes
        if cached is not None and not fresh and now - cached[0] < CACHE_SECONDS:
            return cached[1]
        user = await user_queries.read_identity(self._database.door, issuer=issuer, subject=subject)
        # An answer that was under way while somebody changed a state may be of before the change.
        if user is not None and changes == self._changes:
            # As of before the question: the answer may be older than its arrival.
            self._known[key] = (now, user)
            self._known.move_to_end(key)
            if len(self._known) > CACHE_SIZE:
                self._known.popitem(last=False)
        return user

    def forget(self) -> None:
        """Ask about everybody again. For an admin who has just changed somebody's state; that is rare."""
        self._changes += 1
        self._known.clear()

    def forget_subject(self, issuer: str, subject: str) -> None:
        """Ask about one again. For upstream's news, of which there are many."""
        self._changes += 1
        self._known.pop((issuer, subject), None)
