"""Composes the reconciliation with Clerk, beside the container: the SDK costs a process 35 MB, which those that serve
requests need not pay."""

from typing import Any

import structlog

from services.user_management.container import Container
from services.user_management.exceptions import StartupError
from services.user_management.integrations.clerk_api import ClerkDirectory
from services.user_management.services.reconcile_service import ReconcileService

log = structlog.get_logger(__name__)


def create_reconciler(container: Container) -> ReconcileService:
    """The use case over `container`. Raises StartupError without a Backend API key."""
    clerk = container.settings.clerk
    if clerk.secret_key is None:
        raise StartupError("CLERK_SECRET_KEY: is needed to read users from Clerk's Backend API")
    directory = ClerkDirectory(api_url=clerk.api_url, secret_key=clerk.secret_key, http=container.issuer_http)
    return ReconcileService(
        database=container.database,
        unit_of_work=container.unit_of_work,
        upstream=container.upstream,
        states=container.states,
        directory=directory,
        issuer=clerk.issuer,
        clock=container.clock,
        start_slice=container.start_slice,
    )


async def reconcile_slice(container: Container, cursor: Any) -> Any:
    """The slice for the slot runner; where no key is configured there is nothing to do, and the log says so."""
    if container.settings.clerk.secret_key is None:
        log.warning("reconcile.skipped", reason="CLERK_SECRET_KEY is not set")
        return None
    return await create_reconciler(container).sweep_slice(cursor)
