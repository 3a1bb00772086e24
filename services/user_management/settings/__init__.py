"""Configuration from the environment, in groups under plain names: `DATABASE_POOL_SIZE` is
`settings.database.pool_size`.

Development starts with no variable set. Production is strict, and a start reports every problem at once, by the
variable's name. Only the composition roots (`main`, `celery_app`, `cli`) and the migrations call `get_settings()`.
"""

from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError

from services.user_management.exceptions import StartupError
from services.user_management.settings.groups import DEVELOPMENT_SECRET, DatabaseGroup, Environment
from services.user_management.settings.production import production_problems
from services.user_management.settings.root import Settings, variable_names
from services.user_management.settings.values import Network, QuotaPolicy

__all__ = [
    "DEVELOPMENT_SECRET",
    "DatabaseGroup",
    "Environment",
    "Network",
    "QuotaPolicy",
    "Settings",
    "get_settings",
    "load_settings",
    "variable_names",
]


def load_settings(**overrides: Any) -> Settings:
    """Read the settings from the environment and `.env`; `overrides` take precedence over both. Raises StartupError
    listing every problem, one line each."""
    problems: dict[str, str] = {}
    try:
        settings = Settings(**overrides)
    except ValidationError as error:
        defaults: dict[str, Any] = dict(overrides)
        for failure in error.errors():
            path = [str(part) for part in failure["loc"][:2]]
            problems["_".join(path).upper()] = failure["msg"].removeprefix("Value error, ")
            _use_default(defaults, path)
        # With the unreadable variables at their defaults the rest can still be checked, so that one message has every
        # problem.
        settings = Settings(**defaults)
    if settings.is_production:
        for variable, reason in production_problems(settings):
            problems.setdefault(variable, reason)
    if problems:
        lines = "\n".join(f"  {variable}: {reason}" for variable, reason in sorted(problems.items()))
        raise StartupError(f"the configuration cannot be used:\n{lines}")
    return settings


def _use_default(overrides: dict[str, Any], path: list[str]) -> None:
    """Write the default value of the setting at `path` into the nested `overrides`, which take precedence over the
    environment."""
    default = Settings.model_fields[path[0]].default
    if len(path) == 1 or not isinstance(default, BaseModel):
        overrides[path[0]] = default
        return
    overrides.setdefault(path[0], {})[path[1]] = getattr(default, path[1], None)


@cache
def get_settings() -> Settings:
    """Return the settings of this process, which the first successful call reads. Raises StartupError."""
    return load_settings()
