"""Helpers for tests of the periodic check of integrations: runs of it, and integrations that are due for it."""

import json
from typing import Any

from services.user_management.tests.actors import TESTER
from services.user_management.tests.journey import Journey
from services.user_management.tests.scenes import Connected

STATIC = "sandbox-static"


async def run_check(journey: Journey) -> int:
    """Do one run of the check, slice after slice, and return the number of slices. Between two slices the cursor passes
    through JSON, as it does when it is stored in the job's row."""
    cursor: Any = None
    for slices in range(1, 100):
        cursor = await journey.container.integrations.health.check(TESTER, cursor)
        if cursor is None:
            return slices
        cursor = json.loads(json.dumps(cursor))
    raise AssertionError("the run never ends")


async def forget_reads(scene: Connected) -> None:
    """Change all integrations so that nothing has proved for 25 hours that they work."""
    await scene.journey.owner.execute(
        "UPDATE integrations SET connected_at = now() - interval '25 hours', last_refresh_at = NULL,"
        " last_checked_at = CASE WHEN last_checked_at IS NULL THEN NULL ELSE now() - interval '25 hours' END"
    )


async def health_of(journey: Journey, provider: str = STATIC) -> dict[str, Any] | None:
    row = await journey.owner.fetchrow("SELECT * FROM provider_health WHERE provider = $1", provider)
    return None if row is None else dict(row)


async def crowd(journey: Journey, size: int, provider: str = STATIC) -> list[Connected]:
    """Make `size` users, each with an integration that is due for a check."""
    first = await Connected.at(journey, provider)
    others = [
        await Connected.at(journey, provider, email=f"user{number}@example.com", key=first.key)
        for number in range(1, size)
    ]
    await forget_reads(first)
    return [first, *others]
