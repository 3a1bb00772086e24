"""The sweep: a comparison of all users with Clerk that finds and repairs what no webhook has reported. (Clerk promises
neither that events arrive nor that they come once.)

A sweep makes two passes, page by page. The first compares Clerk's users with ours: whoever is missing here is created,
and whoever differs is updated. The second compares our users with Clerk's: whoever is gone there is deleted here, after
a second look. Every write goes through the same steps as a webhook, so a sweep and the events that arrive meanwhile end
in one state.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Final, Protocol

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.json_types import JSONObject
from services.user_management.core.principal import Principal
from services.user_management.database import Database, DatabaseError, is_unavailable
from services.user_management.exceptions import RetryLaterError, UnreadableEventError
from services.user_management.logging_config import summarize_error
from services.user_management.queries import user as user_queries
from services.user_management.queries.user_rows import UpstreamState
from services.user_management.services.clerk_events import read_user
from services.user_management.services.slice_time import StartSlice
from services.user_management.services.user_service import UpstreamUser, UpstreamUsers, UserStates
from services.user_management.unit_of_work import UnitOfWorkFactory

PAGE: Final = 100
MAX_DELETIONS: Final = 50
MAX_SHARE: Final = 10
FEW: Final = 3
"""If more users are gone at once than MAX_DELETIONS, or than both FEW and a tenth of all (one in MAX_SHARE), we
probably hold the key of another Clerk instance. Then no user is deleted and an error is logged; an operator can allow a
number of deletions with `cli reconcile`."""

log = structlog.get_logger(__name__)


class Directory(Protocol):
    """The users that Clerk's Backend API knows. Each method raises RetryLaterError while Clerk does not answer, and
    ClerkRefusedError if Clerk refuses the request."""

    async def list_users(self, *, offset: int, limit: int) -> list[JSONObject]:
        """Return a page of users, the oldest first."""

    async def existing(self, user_ids: Sequence[str]) -> set[str]:
        """Return those of `user_ids` (at most 100) that exist."""

    async def get_user(self, user_id: str) -> JSONObject | None:
        """Return one user; None only when Clerk says that there is none (404)."""


@dataclass(slots=True)
class Drift:
    """The number of Clerk's users that a sweep has compared, and the numbers of differences that it has found and
    repaired. A sweep that does not repair counts what it would repair."""

    checked: int = 0
    created: int = 0
    updated: int = 0
    deleted: int = 0
    deletions_held_back: int = 0
    """How many users were found to be gone at Clerk when that became more than one sweep may delete; none of them was
    deleted, and there may be more."""
    unreadable: int = 0
    failed: int = 0
    """Users whose change the database refused; they stay as they were."""

    @property
    def found(self) -> int:
        """The number of differences of any kind."""
        return self.created + self.updated + self.deleted + self.deletions_held_back + self.unreadable + self.failed


@dataclass(slots=True)
class Sweep:
    """How far a sweep has come. Between slices this is kept as JSON, as the cursor of the job."""

    drift: Drift
    offset: int | None = 0
    """The number of Clerk's users before the next page; None when the first pass is over."""
    after: str | None = ""
    """The last of our subjects (Clerk's ids of our users) that the second pass has looked for; None when this pass is
    over."""
    looked_at: str | None = None
    """When the second pass began (RFC 3339). A user whom an administrator restores after that is not deleted."""
    suspects: list[str] = field(default_factory=list)
    """Subjects that Clerk left out of a listing; the second pass asks for each once more, by itself."""
    gone: list[str] = field(default_factory=list)
    """Subjects of which Clerk said, when it was asked for each by itself, that it does not have them."""

    known: int = 0
    """The number of our subjects that the second pass has looked for."""
    deleting: bool = False
    """Whether the deletions have begun; from then on the limit on their number is not applied again."""

    def has_too_many_gone(self, allowed: int | None) -> bool:
        """Tell whether so many users are gone that none may be deleted.

        `allowed` is the number that an operator allows; with None the limits of this module apply. The share of all
        users is checked only when the second pass has looked for everybody."""
        if self.deleting:
            return False
        if allowed is not None:
            return len(self.gone) > allowed
        everybody_seen = self.after is None and not self.suspects
        too_large_a_share = len(self.gone) > max(FEW, self.known / MAX_SHARE)
        return len(self.gone) > MAX_DELETIONS or (everybody_seen and too_large_a_share)

    @classmethod
    def resume(cls, cursor: JSONObject | None) -> "Sweep":
        """Restore a sweep from what `cursor()` returned; None begins a new one."""
        if cursor is None:
            return cls(Drift())
        return cls(**{**cursor, "drift": Drift(**cursor["drift"])})

    def cursor(self) -> JSONObject:
        """Return the state of the sweep as a JSON object, from which `resume` restores it."""
        return asdict(self)


@dataclass(kw_only=True, eq=False)
class ReconcileService:
    """Compares our users of one issuer (a Clerk instance) with the users of that instance, and repairs what differs."""

    database: Database
    unit_of_work: UnitOfWorkFactory
    upstream: UpstreamUsers
    states: UserStates
    directory: Directory
    issuer: str
    clock: Clock
    start_slice: StartSlice

    async def sweep_slice(self, actor: Principal, cursor: JSONObject | None = None) -> JSONObject | None:
        """Slice (a few seconds of a sweep): go on with the sweep of `cursor`, or begin one; return the next cursor, or
        None when the sweep is over or was stopped because too many users are gone.

        If Clerk does not answer, this returns a cursor at which the next slice tries again. Raises
        ClerkRefusedError."""
        sweep = Sweep.resume(cursor)
        time = self.start_slice()
        try:
            while time.may_begin():
                if not await self._step(actor, sweep, repair=True, max_deletions=None):
                    log.info("reconcile.finished", **asdict(sweep.drift))
                    return None
        except RetryLaterError as error:
            log.warning("reconcile.postponed", reason=error.detail)
        return sweep.cursor()

    async def sweep(self, actor: Principal, *, repair: bool, max_deletions: int | None = None) -> Drift:
        """Make a whole sweep in one call and return what it found; with `repair` False only count the differences.

        `max_deletions` is the number of deletions that an operator allows; with None the limits of this module apply.
        Raises RetryLaterError while Clerk does not answer, ClerkRefusedError."""
        sweep = Sweep(Drift())
        while await self._step(actor, sweep, repair=repair, max_deletions=max_deletions):
            pass
        return sweep.drift

    async def _step(self, actor: Principal, sweep: Sweep, *, repair: bool, max_deletions: int | None) -> bool:
        """Compare one page, take one second look or make one deletion; return whether there is more to do. If too many
        users are gone for any to be deleted, record how many and return False."""
        if sweep.offset is not None:
            await self._compare_page(actor, sweep, repair=repair)
        elif sweep.has_too_many_gone(max_deletions):
            sweep.drift.deletions_held_back = len(sweep.gone)
            log.error("reconcile.deletions_held_back", at_least=len(sweep.gone))
            return False
        elif sweep.suspects:
            await self._look_again(sweep)
        elif sweep.after is not None:
            await self._look_for_deleted(sweep)
        elif sweep.gone:
            sweep.deleting = True
            subject = sweep.gone.pop()
            with self._surviving(sweep, subject):
                await self._delete(actor, sweep, subject, told_at=_moment(sweep.looked_at), repair=repair)
        else:
            return False
        return True

    @contextmanager
    def _surviving(self, sweep: Sweep, subject: str) -> Iterator[None]:
        """Log and count a database error in the block instead of raising it, so that the sweep goes on with the other
        users. Errors that mean that Postgres is unavailable are raised."""
        try:
            yield
        except DatabaseError as error:
            if is_unavailable(error):
                raise
            sweep.drift.failed += 1
            log.error("reconcile.user_failed", subject=subject, reason=summarize_error(error))  # noqa: TRY400 - quotes rows

    async def _compare_page(self, actor: Principal, sweep: Sweep, *, repair: bool) -> None:
        told_at = self.clock.now()
        page = await self.directory.list_users(offset=sweep.offset or 0, limit=PAGE)
        users: list[UpstreamUser] = []
        for described in page:
            try:
                users.append(read_user(described, issuer=self.issuer, told_at=told_at))
            except UnreadableEventError as error:
                sweep.drift.unreadable += 1
                log.warning("reconcile.user_unreadable", reason=error.detail)
        async with self.database.reading() as connection:
            known = await user_queries.read_upstream_state(
                connection, issuer=self.issuer, subjects=[user.subject for user in users]
            )
        for user in users:
            with self._surviving(sweep, user.subject):
                await self._compare(actor, sweep, user, known.get(user.subject), repair=repair)
        sweep.drift.checked += len(page)
        # Users who are deleted meanwhile shift the pages; the next sweep finds whoever slips through.
        sweep.offset = (sweep.offset or 0) + len(page) if len(page) == PAGE else None

    async def _compare(
        self, actor: Principal, sweep: Sweep, user: UpstreamUser, known: UpstreamState | None, *, repair: bool
    ) -> None:
        if known is not None and _holds(known, user):
            return
        async with self.unit_of_work(actor) as uow:
            if repair:
                was_news = await self.upstream.apply(uow, user)
            else:
                was_news = not await self.upstream.is_erased(uow, user.issuer, user.subject)
        self.states.forget_subject(user.issuer, user.subject)
        if not was_news:
            # The user was erased here, or an event has brought the same description or a newer one.
            return
        if known is None:
            sweep.drift.created += 1
        elif known.upstream_digest != user.digest():
            sweep.drift.updated += 1

    async def _look_for_deleted(self, sweep: Sweep) -> None:
        sweep.looked_at = sweep.looked_at or self.clock.now().isoformat()
        async with self.database.reading() as connection:
            subjects = await user_queries.live_subjects(
                connection, issuer=self.issuer, after=sweep.after or "", limit=PAGE
            )
        existing = await self.directory.existing(subjects) if subjects else set()
        sweep.known += len(subjects)
        sweep.suspects = [subject for subject in subjects if subject not in existing]
        sweep.after = subjects[-1] if subjects else None

    async def _look_again(self, sweep: Sweep) -> None:
        """Ask Clerk for one suspect by itself, and move it to `gone` if Clerk answers with 404: that a listing leaves
        somebody out proves nothing."""
        if await self.directory.get_user(sweep.suspects[-1]) is None:
            sweep.gone.append(sweep.suspects[-1])
        sweep.suspects.pop()

    async def _delete(self, actor: Principal, sweep: Sweep, subject: str, *, told_at: datetime, repair: bool) -> None:
        if repair:
            async with self.unit_of_work(actor) as uow:
                deleted = await self.upstream.delete(uow, issuer=self.issuer, subject=subject, told_at=told_at)
            if not deleted:
                # The user was meanwhile deleted or restored by somebody else.
                return
            self.states.forget_subject(self.issuer, subject)
        sweep.drift.deleted += 1


def _moment(text: str | None) -> datetime:
    if text is None:
        raise RuntimeError("deletions before the second pass")
    return datetime.fromisoformat(text)


def _holds(known: UpstreamState, user: UpstreamUser) -> bool:
    """Tell whether there is nothing to write: our row holds exactly what `user` says, with the same time of change at
    Clerk, or something newer.

    The same content with a later time of change is written: an event from between the two times, still on its way, must
    then be recognised as old.
    """
    restored_at, told_at = known.restored_at, known.upstream_event_at
    if restored_at is not None and (told_at is None or told_at <= restored_at < user.told_at):
        # Clerk has them after an administrator restored them: writing this lets a later deletion count as news.
        return False
    if (known.upstream_updated_at, known.upstream_digest) == (user.updated_at, user.digest()):
        return True
    return not user.is_newer_than(known)
