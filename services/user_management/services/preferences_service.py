"""A user's preferences."""

from typing import Final

from services.user_management.models import UserPreferences
from services.user_management.unit_of_work import UnitOfWork

SCHEMA_VERSION: Final = 1


class PreferencesManager:
    """Steps on users' preferences. A user without overrides has the defaults of the schema version."""

    async def create_defaults(self, uow: UnitOfWork, user_id: str) -> None:
        """Step: add the preferences of a new user, in the transaction that creates the user."""
        now = uow.clock.now()
        await UserPreferences.objects.create(
            user_id=user_id, overrides={}, schema_version=SCHEMA_VERSION, version=1, created_at=now, updated_at=now
        )
