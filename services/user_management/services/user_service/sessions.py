"""Sign-in: finds the user behind a verified session, and decides whether they may act."""

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
"""How many impersonating sessions a process remembers as audited. Beyond this number it forgets the oldest one, which
is audited again if it is still used."""
ACTIVITY_STEP: Final = timedelta(minutes=5)
"""The precision of `last_active_at`. If it were written with every request, each read would become a write."""


class SignIn:
    """Finds the principal (the authenticated party that acts) of a session. It creates users at their first sign-in,
    records when users were active, and audits impersonations."""

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
        """Return the principal of a verified session. A user who is new is created, since Clerk's webhook may be late.

        A user's state is remembered for two seconds; with `fresh` it is read from the database anyway. Raises
        UnauthenticatedError for a subject that must not exist here (erased, or an id that is taken or not acceptable),
        and UserInactiveError for a user who is deleted, suspended, deactivated or not verified."""
        user = await self._states.find(session.issuer, session.subject, fresh=fresh) or await self._create(session)
        if user.deleted_at is not None:
            raise UserInactiveError(extra=self._deletion(user.deleted_at))
        if user.status != UserStatus.ACTIVE:
            raise UserInactiveError
        if session.impersonator is None:
            await self._note_activity(user)
        else:
            await self._note_impersonation(user, session)
        # Whoever impersonates an administrator does not get the administrator's power over other users.
        is_admin = user.id in self._admin_user_ids and session.impersonator is None
        return Principal(PrincipalKind.USER, user.id, impersonator=session.impersonator, is_admin=is_admin)

    def _deletion(self, deleted_at: datetime) -> dict[str, str]:
        """Return members for the refusal of a deleted user: when they were deleted and until when they can be restored.
        These are repeated here because the response to the deletion itself may never have reached the user."""
        moments = {"deleted_at": deleted_at, "restorable_until": deleted_at + self._hold_back}
        return {name: moment.isoformat().replace("+00:00", "Z") for name, moment in moments.items()}

    async def _create(self, session: SessionClaims) -> ResolvedUser:
        # The audit names the new users themselves as the actor, although they exist only once this is done.
        actor = Principal(PrincipalKind.USER, session.subject, impersonator=session.impersonator)
        async with self._unit_of_work(actor) as uow:
            await self._upstream.create(uow, issuer=session.issuer, subject=session.subject)
        user = await self._states.find(session.issuer, session.subject)
        if user is None:
            # The id belongs to another issuer's subject, or was erased: nobody may get into such an account this way.
            raise UnauthenticatedError("The session's subject is not accepted here.")
        return user

    async def _note_impersonation(self, user: ResolvedUser, session: SessionClaims) -> None:
        """Audit that somebody impersonates the user: once for each session and impersonator, in this process."""
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
