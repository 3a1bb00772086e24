"""The preferences that a user gets at creation."""

from typing import Final

from services.user_management.models import UserPreferences
from services.user_management.unit_of_work import UnitOfWork

SCHEMA_VERSION: Final = 1


class PreferencesManager:
    """Writes users' preferences, within the caller's transaction. A row holds only the values that differ from the
    defaults of its schema version."""

    async def create_defaults(self, uow: UnitOfWork, user_id: str) -> None:
        """Step (part of the caller's transaction): insert the preferences of a new user, with every value at its
        default. Call this in the transaction that creates the user."""
        now = uow.clock.now()
        await UserPreferences.objects.create(
            user_id=user_id, overrides={}, schema_version=SCHEMA_VERSION, version=1, created_at=now, updated_at=now
        )
