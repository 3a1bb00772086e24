"""Whom a service key belongs to."""

from services.user_management.core.principal import Principal, PrincipalKind
from services.user_management.database import Database
from services.user_management.enums import ServicePermission
from services.user_management.exceptions import UnauthenticatedError
from services.user_management.queries import service_client as queries
from services.user_management.services.service_credentials.keys import ServiceCredential
from services.user_management.services.use_recorder import UseRecorder


class ServiceAuthentication:
    """Resolves service keys to principals. Nothing is cached: a revoked key is refused by the very next call."""

    def __init__(self, database: Database, key_usage: UseRecorder) -> None:
        self._database = database
        self._key_usage = key_usage

    async def authenticate(self, credential: ServiceCredential) -> Principal:
        """Find the service that calls, by its name. Raises UnauthenticatedError."""
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
