"""The rules of the diagnosis: each looks at the evidence for one cause. Their order is that of findings that are
equally sure and equally bad."""

from collections.abc import Callable
from typing import Final

from services.user_management.schemas.diagnosis import Finding
from services.user_management.services.diagnosis_service.evidence import Evidence
from services.user_management.services.diagnosis_service.rules import (
    connecting,
    limits,
    people,
    refusals,
    scopes,
    tokens,
    weather,
)

Rule = Callable[[Evidence], Finding | None]

RULES: Final[tuple[Rule, ...]] = (
    *people.RULES,
    *connecting.RULES,
    *tokens.RULES,
    *refusals.RULES,
    *scopes.RULES,
    *limits.RULES,
    *weather.RULES,
)
