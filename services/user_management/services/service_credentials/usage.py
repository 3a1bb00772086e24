"""Records when service keys were last used, to the minute."""

from typing import Final

from services.user_management.core.clock import Clock
from services.user_management.queries import service_client as queries
from services.user_management.services.use_recorder import UseRecorder
from services.user_management.unit_of_work import UnitOfWorkFactory

PERIOD_SECONDS: Final = 60.0


def key_usage(unit_of_work: UnitOfWorkFactory, clock: Clock) -> UseRecorder:
    """Return a recorder that takes the id of a key and writes `service_keys.last_used_at`, at most once a minute per
    key and process."""
    return UseRecorder(
        unit_of_work, clock, thing="service_key", period_seconds=PERIOD_SECONDS, write=queries.record_use
    )
