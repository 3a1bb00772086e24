"""The group of services for periodic jobs: the runner, which runs each job once per period (slot), and the upkeep of
tables."""

from dataclasses import dataclass
from typing import Final

from services.user_management.container.resources import Resources
from services.user_management.services.integration_service import FLOW_PRUNING, REVOCATION_PRUNING
from services.user_management.services.job_service import RUN_PRUNING, JobService
from services.user_management.services.outbox_service import EVENT_PRUNING
from services.user_management.services.table_upkeep import Pruning, TableUpkeep
from services.user_management.services.user_service import SIGN_IN_PRUNING
from services.user_management.services.webhook_delivery_service import DELIVERY_PRUNING
from services.user_management.services.webhook_service import INBOX_PRUNING

PRUNINGS: Final[tuple[Pruning, ...]] = (
    RUN_PRUNING,
    FLOW_PRUNING,
    SIGN_IN_PRUNING,
    REVOCATION_PRUNING,
    INBOX_PRUNING,
    EVENT_PRUNING,
    DELIVERY_PRUNING,
)
"""The prunings of all features, in the order in which they run: each deletes what its feature no longer needs."""


@dataclass(frozen=True, kw_only=True)
class JobServices:
    """`runner` runs the periodic jobs, of which `upkeep` is one."""

    runner: JobService
    upkeep: TableUpkeep


def build_jobs(resources: Resources) -> JobServices:
    """Build the services for periodic jobs."""
    return JobServices(
        runner=JobService(unit_of_work=resources.unit_of_work),
        upkeep=TableUpkeep(unit_of_work=resources.unit_of_work, prunings=PRUNINGS, start_slice=resources.start_slice),
    )
