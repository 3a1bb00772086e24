"""Sibling services: their keys and their grants."""

import secrets
from dataclasses import dataclass
from typing import Final

from sqlalchemy.exc import IntegrityError

from services.user_management.core.ids import uuid7
from services.user_management.exceptions import ConflictError, NotFoundError
from services.user_management.models import ServiceClient, ServiceGrant, ServiceKey
from services.user_management.security.signing import sha256
from services.user_management.unit_of_work import UnitOfWork, UnitOfWorkFactory

KEY_PREFIX: Final = "ums"


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """A service for a list: its live keys by id, its grants in words."""

    name: str
    disabled: bool
    key_ids: list[str]
    grants: list[str]


class ServiceClientService:
    """Administration of sibling services."""

    def __init__(self, unit_of_work: UnitOfWorkFactory) -> None:
        self._unit_of_work = unit_of_work

    async def create_service(self, name: str) -> str:
        """Register a service; returns its first key, which is stored only as a hash. Raises ConflictError."""
        async with self._unit_of_work() as uow:
            client_id = uuid7()
            try:
                await ServiceClient.objects.create(id=client_id, name=name, permissions=[], created_at=uow.clock.now())
            except IntegrityError:
                raise ConflictError(f"There is a service named {name} already.") from None
            key_id, secret = secrets.token_hex(6), secrets.token_hex(32)
            await ServiceKey.objects.create(
                id=key_id, client_id=client_id, secret_hash=sha256(secret), created_at=uow.clock.now()
            )
            uow.audit("service.created", target=("service", name), user_id=None, changes={"key_id": [None, key_id]})
        return f"{KEY_PREFIX}_{key_id}_{secret}"

    async def grant(self, name: str, provider: str, *, scopes: list[str] | None, reason_required: bool) -> None:
        """Let a service read tokens of `provider` (`scopes` None: any), instead of an earlier grant.

        Raises NotFoundError.
        """
        async with self._unit_of_work() as uow:
            client = await _find(name)
            earlier = await ServiceGrant.objects.get_or_none(client_id=client.id, provider=provider)
            if earlier is not None:
                await earlier.delete()
            await ServiceGrant.objects.create(
                id=uuid7(),
                client_id=client.id,
                provider=provider,
                scopes=scopes,
                reason_required=reason_required,
                created_at=uow.clock.now(),
            )
            former = {"scopes": earlier.scopes, "reason_required": earlier.reason_required} if earlier else None
            new = {"scopes": scopes, "reason_required": reason_required}
            uow.audit("service.granted", target=("service", name), user_id=None, changes={provider: [former, new]})

    async def revoke_service(self, name: str) -> int:
        """Refuse every key of a service from now on; how many there were. Raises NotFoundError."""
        async with self._unit_of_work() as uow:
            client = await _find(name)
            return await self._revoke_keys(uow, client)

    async def list_services(self) -> list[ServiceSummary]:
        """All services, by name."""
        clients = await ServiceClient.objects.order_by("name").all()
        keys = await ServiceKey.objects.filter(revoked_at__isnull=True).all()
        grants = await ServiceGrant.objects.order_by("provider").all()
        return [
            ServiceSummary(
                name=client.name,
                disabled=client.disabled_at is not None,
                key_ids=[key.id for key in keys if key.client_id == client.id],
                grants=[_describe(grant) for grant in grants if grant.client_id == client.id],
            )
            for client in clients
        ]

    async def _revoke_keys(self, uow: UnitOfWork, client: ServiceClient) -> int:
        live = ServiceKey.objects.filter(client_id=client.id, revoked_at__isnull=True)
        revoked = int(await live.update(revoked_at=uow.clock.now()))
        uow.audit("service.revoked", target=("service", client.name), user_id=None, changes={"keys": [revoked, 0]})
        return revoked


async def _find(name: str) -> ServiceClient:
    client = await ServiceClient.objects.get_or_none(name=name)
    if client is None:
        raise NotFoundError(f"There is no service named {name}.")
    return client


def _describe(grant: ServiceGrant) -> str:
    scopes = "any scope" if grant.scopes is None else " ".join(grant.scopes)
    return f"{grant.provider}: {scopes}{', reason required' if grant.reason_required else ''}"
