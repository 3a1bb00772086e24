"""An actor for tests in which it does not matter who acts."""

from typing import Final

from services.user_management.core.principal import Principal, system

TESTER: Final[Principal] = system("test")
