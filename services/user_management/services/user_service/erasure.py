"""The erasure of deleted users at the end of the hold-back, the days in which they could be restored. A user's data is
removed; a keyed hash of their subject (their id at the identity provider) stays, so that they are not created again."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog

from services.user_management.core.principal import Principal
from services.user_management.enums import EventType
from services.user_management.integrations.oauth_config import ProviderRegistry
from services.user_management.queries import user as user_queries
from services.user_management.queries import webhook as webhook_queries
from services.user_management.schemas.events import UserErased
from services.user_management.security.signing import Signer
from services.user_management.services.integration_service import release_tokens
from services.user_management.services.slice_time import StartSlice
from services.user_management.services.user_service.states import UserStates
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

log = structlog.get_logger(__name__)


@dataclass(kw_only=True, eq=False)
class UserErasure:
    """Erases users whose hold-back is over, one per transaction."""

    unit_of_work: UnitOfWorkFactory
    signer: Signer
    states: UserStates
    providers: ProviderRegistry
    hold_back: timedelta
    start_slice: StartSlice

    async def erase_due(self, actor: Principal, _cursor: Any = None) -> str | None:
        """Slice: erase the users who were deleted longer ago than the hold-back, for about five seconds.

        Returns None when no such user is left; otherwise "more", a cursor that asks for another slice.
        """
        time = self.start_slice()
        while time.may_begin():
            async with self.unit_of_work(actor) as uow:
                user_id = await user_queries.lock_due_for_erasure(uow.connection, hold_back=self.hold_back)
                if user_id is None:
                    return None
                await self._erase(uow, user_id)
            self.states.forget()
            log.info("user.erased", user_id=user_id)
        return "more"

    async def _erase(self, uow: UnitOfWork, user_id: str) -> None:
        """Step: erase one user, and queue the revocation of their tokens at the providers. The audit keeps who did what
        and when, without old and new values; the events that upstream sent about the user stay without their content.
        The records of token reads stay."""
        identities = await user_queries.identities_of(uow.connection, user_id)
        for issuer, subject in identities:
            await user_queries.insert_tombstone(uow.connection, self.signer.subject_tombstones(issuer, subject)[0])
            await webhook_queries.forget_payloads(uow.connection, subject)
        await release_tokens(uow, self.providers, user_id)
        await user_queries.delete_user(uow.connection, user_id)
        await user_queries.erase_audit_details(uow.connection, user_id)
        uow.audit(EventType.USER_ERASED.value, target=("user", user_id), user_id=user_id)
        uow.publish(UserErased(user_id=user_id))
