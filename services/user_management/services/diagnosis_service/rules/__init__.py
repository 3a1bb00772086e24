"""The rules, each of which looks at the evidence for one cause, in the order in which equal findings are told."""

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
