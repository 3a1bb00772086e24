"""A cache of users and whether they may act, by issuer and subject (the user's id at the issuer of the session). It
keeps each user for two seconds."""

from collections import OrderedDict
from typing import Final

from services.user_management.core.clock import Clock
from services.user_management.database import Database
from services.user_management.queries import user as user_queries
from services.user_management.queries.user_rows import ResolvedUser

CACHE_SECONDS: Final = 2.0
CACHE_SIZE: Final = 10_000


class UserStates:
    """Finds users by (issuer, subject), and remembers at most 10,000 of them. A process that suspends a user sees that
    at once, others within two seconds."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._known: OrderedDict[tuple[str, str], tuple[float, ResolvedUser]] = OrderedDict()
        self._changes = 0

    async def find(self, issuer: str, subject: str, *, fresh: bool = False) -> ResolvedUser | None:
        """Return the user who signs in as (issuer, subject), deleted or not; None if there is none. That a user does
        not exist is not remembered.

        With `fresh`, the database is asked even about a user who is remembered."""
        key = (issuer, subject)
        cached = self._known.get(key)
        now, changes = self._clock.monotonic(), self._changes
        if cached is not None and not fresh and now - cached[0] < CACHE_SECONDS:
            return cached[1]
        user = await user_queries.read_identity(self._database.door, issuer=issuer, subject=subject)
        # An answer that was under way while somebody changed a state may be from before the change.
        if user is not None and changes == self._changes:
            # Dated from before the question, since the answer may be older than its arrival.
            self._known[key] = (now, user)
            self._known.move_to_end(key)
            if len(self._known) > CACHE_SIZE:
                self._known.popitem(last=False)
        return user

    def forget(self) -> None:
        """Forget all users. Call this after changing a user's state here; such changes are so rare that this costs
        little."""
        self._changes += 1
        self._known.clear()

    def forget_subject(self, issuer: str, subject: str) -> None:
        """Forget one user. Call this after a change that upstream reported; these are too many to forget all users each
        time."""
        self._changes += 1
        self._known.pop((issuer, subject), None)
