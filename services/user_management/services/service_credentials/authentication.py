"""Authentication of sibling services by their keys."""

import asyncio
from contextvars import Context
from typing import Final

import structlog

from services.user_management.core.clock import Clock
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.database import Database, is_unavailable
from services.user_management.enums import ServicePermission
from services.user_management.exceptions import UnauthenticatedError
from services.user_management.logging_config import summarize_error
from services.user_management.queries import service_client as queries
from services.user_management.services.service_credentials.keys import ServiceCredential
from services.user_management.services.use_recorder import UseRecorder

LIST_SECONDS: Final = 1.0
"""The least time between two readings of the list of valid keys that `is_listed` looks into."""

log = structlog.get_logger(__name__)


class ServiceAuthentication:
    """Finds the principal (the authenticated party) of a service key. `authenticate` asks the database each time, so a
    revoked key is refused from the next call on."""

    def __init__(self, database: Database, key_usage: UseRecorder, clock: Clock) -> None:
        self._database = database
        self._key_usage = key_usage
        self._clock = clock
        self._listed: frozenset[tuple[str, bytes]] | None = None
        self._listing: asyncio.Task[None] | None = None
        self._list_again_at = 0.0

    async def authenticate(self, credential: ServiceCredential) -> Principal:
        """Return the principal of the service that the key belongs to, and record that the key was used.

        Raises UnauthenticatedError if the key is unknown, revoked or expired, or its service is disabled.
        """
        caller = await queries.authenticate(
            self._database.door, key_id=credential.key_id, secret_hash=credential.secret_hash
        )
        if caller is None:
            raise UnauthenticatedError("The service key is not valid.")
        await self._key_usage.record(credential.key_id)
        return Principal(
            PrincipalKind.SERVICE,
            caller.name,
            is_admin=ServicePermission.ADMIN in caller.permissions,
            permissions=caller.permissions,
        )

    async def is_listed(self, credential: ServiceCredential) -> bool:
        """Tell whether the key is on a list of all valid keys, or may be valid because no list could be read yet.

        The list is read once for all callers, and at most once a second, so a flood of wrong keys costs no statement
        per key. While it cannot be read, the former one stays in use. A listed key still has to be authenticated.
        """
        if self._listing is None and self._clock.monotonic() >= self._list_again_at:
            # Shared between requests: it must not inherit one caller's context, nor die with one caller.
            self._listing = asyncio.get_running_loop().create_task(self._list(), context=Context())
        if self._listing is not None:
            await asyncio.shield(self._listing)
        return self._listed is None or (credential.key_id, credential.secret_hash) in self._listed

    async def _list(self) -> None:
        """Read the list of valid keys. If the database is unavailable, log that and keep the former list."""
        try:
            self._listed = await queries.live_keys(self._database.door)
        except Exception as error:
            if not is_unavailable(error):
                raise
            log.warning("service_keys.list_not_read", error=summarize_error(error))
        finally:
            # Counted from the end, so that a database that does not answer has a pause too.
            self._list_again_at = self._clock.monotonic() + LIST_SECONDS
            self._listing = None
