"""Authentication of sibling services by their keys."""

import asyncio
from typing import Final

from services.user_management.core.clock import Clock
from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.database import Database
from services.user_management.enums import ServicePermission
from services.user_management.exceptions import UnauthenticatedError
from services.user_management.queries import service_client as queries
from services.user_management.services.service_credentials.keys import ServiceCredential
from services.user_management.services.use_recorder import UseRecorder

LIST_SECONDS: Final = 1.0
"""The greatest age of the list of valid keys that `is_listed` looks into."""


class ServiceAuthentication:
    """Finds the principal (the authenticated party) of a service key. `authenticate` asks the database each time, so a
    revoked key is refused from the next call on."""

    def __init__(self, database: Database, key_usage: UseRecorder, clock: Clock) -> None:
        self._database = database
        self._key_usage = key_usage
        self._clock = clock
        self._listing = asyncio.Lock()
        self._listed: frozenset[tuple[str, bytes]] = frozenset()
        self._list_again_at = 0.0

    async def authenticate(self, credential: ServiceCredential) -> Principal:
        """Return the principal of the service that the key belongs to, and record that the key was used.

        Raises UnauthenticatedError if the key is unknown, revoked or expired, or its service is disabled.
        """
        async with self._database.reading() as connection:
            caller = await queries.authenticate(
                connection, key_id=credential.key_id, secret_hash=credential.secret_hash
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
        """Tell whether the key was valid within the last second, by a list of all valid keys. The list is read at most
        once a second, so a flood of wrong keys costs no statement per key; a listed key still has to be
        authenticated."""
        async with self._listing:
            now = self._clock.monotonic()
            if now >= self._list_again_at:
                # Set before asking, so that callers who wait for their turn do not ask again if this fails.
                self._list_again_at = now + LIST_SECONDS
                async with self._database.reading() as connection:
                    self._listed = await queries.live_keys(connection)
        return (credential.key_id, credential.secret_hash) in self._listed
