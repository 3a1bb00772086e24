"""`python -m benchmarks.chaos.naive web|worker …`: the service with the naive refresher that most people write first.

No lease: a process that finds a token expired asks the provider, and leaves no trace of having asked. No fence: the
answer that comes last is stored, and a refusal that comes last is believed. No single flight: two callers in one
process make two calls. A token expires by the process's own wall clock. All other code is the product's. If the chaos
run does not fail with this refresher, its results about the product mean nothing.
"""

import sys
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import sqlalchemy as sa
from celery.__main__ import main as run_worker
from sqlalchemy.ext.asyncio import AsyncConnection

from services.user_management.core.context import RequestContext, current_context
from services.user_management.core.principal import system
from services.user_management.integrations.oauth_client import TokenAnswer
from services.user_management.main import main as run_web
from services.user_management.queries import integration, token_refresh
from services.user_management.queries.due_refresh import DueRefresh
from services.user_management.queries.token_refresh import Advanced, Claim
from services.user_management.services.token_service import refresh_attempt
from services.user_management.services.token_service.refresh import TokenRefresher
from services.user_management.services.token_service.refresh_attempt import RefreshResult
from services.user_management.services.token_service.storage import store_tokens
from services.user_management.services.vault_service import VaultService
from services.user_management.unit_of_work import UnitOfWork

_FORGET_LEASE: Final = sa.text("""
UPDATE integrations SET refresh_lease_owner = NULL, refresh_lease_until = NULL, refresh_attempts = 0 WHERE id = :id
RETURNING token_version
""")
_EXPIRE_BY_THE_WALL: Final = sa.text("""
UPDATE encrypted_tokens SET expires_at = :expires_at WHERE integration_id = :id AND kind = 'access'
""")
_CURRENT_VERSION: Final = sa.text("SELECT token_version FROM integrations WHERE id = :id")
_claim_with_lease: Final = token_refresh.claim
_advance_behind_fence: Final = token_refresh.advance
_set_status_behind_fence: Final = integration.set_status


async def claim_without_lease(
    connection: AsyncConnection, *, integration_id: UUID, token_version: int, **lease: Any
) -> Claim | None:
    """Claim the tokens for a refresh, in place of `token_refresh.claim`, even if another process holds the lease or has
    changed `token_version`; leave no lease behind. None in the other cases in which `token_refresh.claim` gives
    None."""
    current = await _forget_lease(connection, integration_id) or token_version
    claim = await _claim_with_lease(connection, integration_id=integration_id, token_version=current, **lease)
    await _forget_lease(connection, integration_id)
    return claim


async def advance_without_fence(
    connection: AsyncConnection, *, integration_id: UUID, token_version: int, **changes: Any
) -> Advanced | None:
    """Record that a refresh succeeded, in place of `token_refresh.advance`, even if another process has stored new
    tokens since this one began."""
    current = await _forget_lease(connection, integration_id) or token_version
    changes["attempts"] = None
    return await _advance_behind_fence(connection, integration_id=integration_id, token_version=current, **changes)


async def set_status_without_fence(
    connection: AsyncConnection, *, integration_id: UUID, token_version: int, **changes: Any
) -> tuple[str, str] | None:
    """Set the status, in place of `integration.set_status`, even if another process has stored new tokens since the
    refused call."""
    current = (await connection.execute(_CURRENT_VERSION, {"id": integration_id})).scalar_one_or_none()
    return await _set_status_behind_fence(
        connection, integration_id=integration_id, token_version=current or token_version, **changes
    )


async def store_by_the_wall(
    uow: UnitOfWork, vault: VaultService, grant: TokenAnswer, *, integration_id: UUID, **owner: Any
) -> None:
    """Store the tokens with an expiry of now plus their lifetime by this process's clock, in place of `store_tokens`;
    without a lifetime, the expiry stays as `store_tokens` sets it."""
    await store_tokens(uow, vault, grant, integration_id=integration_id, **owner)
    if grant.lifetime_seconds is not None:
        expires_at = uow.clock.now() + timedelta(seconds=grant.lifetime_seconds)
        await uow.connection.execute(_EXPIRE_BY_THE_WALL, {"id": integration_id, "expires_at": expires_at})


async def refresh_alone(self: TokenRefresher, integration_id: UUID, token_version: int) -> RefreshResult:
    """Refresh for this caller alone, in place of `TokenRefresher.refresh`, even if another caller in this process is
    already refreshing the same tokens."""
    context = RequestContext(request_id=current_context().request_id, actor=system("token_refresh"))
    wanted = DueRefresh(integration_id, token_version)
    return await self._fly(wanted, context)


async def _forget_lease(connection: AsyncConnection, integration_id: UUID) -> int | None:
    version: int | None = (await connection.execute(_FORGET_LEASE, {"id": integration_id})).scalar_one_or_none()
    return version


def main() -> None:
    """Replace the service's safeguards by the functions above, then run the web process or the worker, whichever the
    first argument names."""
    token_refresh.claim = claim_without_lease
    token_refresh.advance = advance_without_fence
    integration.set_status = set_status_without_fence
    vars(refresh_attempt)["store_tokens"] = store_by_the_wall
    TokenRefresher.refresh = refresh_alone  # type: ignore[method-assign] # the point of this module
    process = sys.argv.pop(1)
    if process == "web":
        run_web()
    else:
        run_worker()


if __name__ == "__main__":
    main()
