"""Builds the reconciliation, which compares all users with Clerk's, from the container's parts, and runs slices of it.

No other module of this package imports this one: it imports Clerk's SDK, which takes 35 MB of memory that processes
serving requests can do without.
"""

from typing import Any

import structlog

from services.user_management.container.process import Container
from services.user_management.core.principal import Principal
from services.user_management.exceptions import StartupError
from services.user_management.integrations.clerk_api import ClerkDirectory
from services.user_management.services.reconcile_service import ReconcileService

log = structlog.get_logger(__name__)


def build_reconciliation(container: Container) -> ReconcileService:
    """Build the reconciliation from `container`. Raises StartupError if the settings have no key for Clerk's Backend
    API."""
    resources, users = container.resources, container.users
    clerk = resources.settings.clerk
    if clerk.secret_key is None:
        raise StartupError("CLERK_SECRET_KEY: it is needed to read users from Clerk's Backend API")
    directory = ClerkDirectory(api_url=clerk.api_url, secret_key=clerk.secret_key, http=resources.issuer_http)
    return ReconcileService(
        database=resources.database,
        unit_of_work=resources.unit_of_work,
        upstream=users.upstream,
        states=users.states,
        directory=directory,
        issuer=clerk.issuer,
        clock=resources.clock,
        start_slice=resources.start_slice,
    )


async def reconcile_slice(container: Container, actor: Principal, cursor: Any) -> Any:
    """Run one slice of the periodic job: continue the sweep from `cursor`, or begin one if it is None. Return the next
    cursor; None when the sweep is over or was stopped because too many users are gone.

    Without a key for Clerk's Backend API this logs a warning, does nothing and returns None. Raises ClerkRefusedError.
    """
    if container.resources.settings.clerk.secret_key is None:
        log.warning("reconcile.skipped", reason="CLERK_SECRET_KEY is not set")
        return None
    return await build_reconciliation(container).sweep_slice(actor, cursor)
