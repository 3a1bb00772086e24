"""From a verified session to the user who acts."""

from datetime import datetime, timedelta
from functools import partial
from typing import Final

from services.user_management.core.clock import Clock
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.enums import UserStatus
from services.user_management.exceptions import UnauthenticatedError, UserInactiveError
from services.user_management.queries import user as user_queries
from services.user_management.queries.user_rows import ResolvedUser
from services.user_management.security.jwt import SessionClaims
from services.user_management.services.use_recorder import UseRecorder
from services.user_management.services.user_service.states import UserStates
from services.user_management.services.user_service.upstream import UpstreamUsers
from services.user_management.unit_of_work import UnitOfWorkFactory

MAX_IMPERSONATIONS: Final = 1000
"""Sessions that are remembered as audited; one that was forgotten is audited again."""
ACTIVITY_STEP: Final = timedelta(minutes=5)
"""How exact `last_active_at` is: writing it with every request would make each read a write."""


class SignIn:
    """Resolves sessions to principals."""

    def __init__(
        self,
        *,
        states: UserStates,
        upstream: UpstreamUsers,
        unit_of_work: UnitOfWorkFactory,
        admin_user_ids: frozenset[str],
        hold_back: timedelta,
        clock: Clock,
    ) -> None:
        self._states = states
        self._upstream = upstream
        self._unit_of_work = unit_of_work
        self._admin_user_ids = admin_user_ids
        self._hold_back = hold_back
        self._clock = clock
        self._activity = UseRecorder(
            unit_of_work,
            clock,
            thing="user",
            period_seconds=ACTIVITY_STEP.total_seconds(),
            write=partial(user_queries.note_activity, step=ACTIVITY_STEP),
        )
        self._impersonations: dict[tuple[str, str | None], None] = {}

    async def sign_in(self, session: SessionClaims, *, fresh: bool = False) -> Principal:
        """The principal behind a verified session; the user is created at first sight, since a webhook may be late.

        `fresh` asks the database whatever is remembered. Raises UnauthenticatedError for a subject that must not exist
        here, UserInactiveError for one that may not act.
        """
        user = await self._states.find(session.issuer, session.subject, fresh=fresh) or await self._create(session)
        if user.deleted_at is not None:
            raise UserInactiveError(extra=self._deletion(user.deleted_at))
        if user.status != UserStatus.ACTIVE:
            raise UserInactiveError
        if session.impersonator is None:
            await self._note_activity(user)
        else:
            await self._note_impersonation(user, session)
        # Whoever looks at the product through somebody else's eyes does not get that person's power over others.
        is_admin = user.id in self._admin_user_ids and session.impersonator is None
        return Principal(PrincipalKind.USER, user.id, impersonator=session.impersonator, is_admin=is_admin)

    def _deletion(self, deleted_at: datetime) -> dict[str, str]:
        """Members of the refusal: they tell a user whose deletion was never confirmed to them what became of it."""
        moments = {"deleted_at": deleted_at, "restorable_until": deleted_at + self._hold_back}
        return {name: moment.isoformat().replace("+00:00", "Z") for name, moment in moments.items()}

    async def _create(self, session: SessionClaims) -> ResolvedUser:
        # Their own doing, and so it is recorded, although they are nobody's principal before it is done.
        actor = Principal(PrincipalKind.USER, session.subject, impersonator=session.impersonator)
        async with self._unit_of_work(actor) as uow:
            await self._upstream.create(uow, issuer=session.issuer, subject=session.subject)
        user = await self._states.find(session.issuer, session.subject)
        if user is None:
            # The id belongs to another issuer's subject, or was erased: never a second door into an account.
            raise UnauthenticatedError("The session's subject is not accepted here.")
        return user

    async def _note_impersonation(self, user: ResolvedUser, session: SessionClaims) -> None:
        """Audit that somebody looks through the user's eyes: once per session and process, whatever they do."""
        key = (session.session_id, session.impersonator)
        if key in self._impersonations:
            return
        actor = Principal(PrincipalKind.USER, user.id, impersonator=session.impersonator)
        async with self._unit_of_work(actor) as uow:
            uow.audit("user.impersonated", target=("user", user.id), user_id=user.id)
        self._impersonations[key] = None
        if len(self._impersonations) > MAX_IMPERSONATIONS:
            del self._impersonations[next(iter(self._impersonations))]

    async def _note_activity(self, user: ResolvedUser) -> None:
        if user.last_active_at is None or self._clock.now() - user.last_active_at >= ACTIVITY_STEP:
            await self._activity.record(user.id)
