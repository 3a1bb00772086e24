"""Runs a use case from the command line."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

from services.user_management.container import Container
from services.user_management.core.context import RequestContext, use_context
from services.user_management.core.principal import system
from services.user_management.logging_config import configure_logging
from services.user_management.settings import get_settings

Result = TypeVar("Result")


def run(use_case: Callable[[Container], Awaitable[Result]], *, prove_keys: bool = True) -> Result:
    """Run `use_case` as the operator. `prove_keys` False: without the vault, for commands that do not touch it."""

    async def connected() -> Result:
        settings = get_settings()
        configure_logging(level="WARNING", json_lines=settings.log_json_lines, stream=sys.stderr)
        container = Container(settings)
        with use_context(RequestContext(request_id="cli", actor=system("cli"))):
            try:
                await (container.start() if prove_keys else container.database.connect())
                return await use_case(container)
            finally:
                await container.stop()

    return asyncio.run(connected())
