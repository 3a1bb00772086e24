"""Runs one use case from the command line, in a process of its own."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from services.user_management.container import SCHEMA_MISSING, Container
from services.user_management.core.context import RequestContext, use_context
from services.user_management.core.principal import system
from services.user_management.database import DatabaseError, is_schema_missing, is_unavailable
from services.user_management.exceptions import StartupError
from services.user_management.logging_config import configure_logging
from services.user_management.settings import get_settings

Result = TypeVar("Result")
OPERATOR: Final = system("cli")
"""The actor of every command."""


def run(use_case: Callable[[Container], Awaitable[Result]], *, prove_keys: bool = False) -> Result:
    """Run `use_case` with a container that is connected to Postgres, close the container, and return the result.

    With `prove_keys`, which commands that encrypt or decrypt need, first load the keys and check that they are right.
    Other commands also work while keys are missing. Raises what `use_case` raises, and StartupError if a setting
    or key cannot be used, Postgres does not answer, or the schema is missing.
    """

    async def connected() -> Result:
        settings = get_settings()
        configure_logging(level="WARNING", json_lines=settings.log_json_lines, stream=sys.stderr)
        container = Container(settings)
        with use_context(RequestContext(request_id="cli", actor=OPERATOR)):
            try:
                await (container.prove_keys() if prove_keys else container.resources.database.connect())
                return await use_case(container)
            except DatabaseError as error:
                if is_schema_missing(error):
                    raise StartupError(SCHEMA_MISSING) from None
                if is_unavailable(error):
                    raise StartupError("DATABASE_URL: Postgres does not answer") from None
                raise
            finally:
                await container.stop()

    return asyncio.run(connected())
