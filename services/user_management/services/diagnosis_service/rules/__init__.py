"""The rules of the diagnosis. Each looks in the evidence for one cause of trouble with the integration, and returns its
finding, or None if the cause does not apply. Findings that are equally certain and equally bad are shown in the order
of the rules."""

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
