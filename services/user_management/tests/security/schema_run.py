"""Runs schemathesis over the whole OpenAPI document: calls every operation, and compares each answer with the
document."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.core.result import Err
from schemathesis.engine import StopReason, events, from_schema
from schemathesis.engine.recorder import ScenarioRecorder
from schemathesis.schemas import BaseSchema
from starlette.types import ASGIApp

from services.user_management.exceptions import CATALOGUE
from services.user_management.middleware.problems import MEDIA_TYPE

EVERY_PHASE: Final = ("examples", "coverage", "fuzzing", "stateful")
_CHECKS: Final = (
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "undocumented_answer_is_a_problem",
)


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run. `examples` is the most random cases of each operation in a phase. `parameters` and
    `dictionaries` are passed to schemathesis, so that it uses values that exist."""

    seed: int
    examples: int
    phases: tuple[str, ...] = EVERY_PHASE
    parameters: Mapping[str, Any] = field(default_factory=dict)
    dictionaries: Mapping[str, list[str]] = field(default_factory=dict)


@dataclass(slots=True)
class Findings:
    """What a run did and found. `cases` and `statuses` count by operation, `METHOD /path`."""

    operations: set[str] = field(default_factory=set)
    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @property
    def untried(self) -> set[str]:
        """Return the operations of the document for which no case was made."""
        return self.operations - set(self.cases)

    def add(self, other: "Findings") -> None:
        """Add the findings of another run."""
        self.operations |= other.operations
        self.cases += other.cases
        self.statuses += other.statuses
        self.problems += other.problems


@schemathesis.check
def undocumented_answer_is_a_problem(
    _context: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check that an answer whose status the operation does not list is an RFC 9457 problem with a `type` of our
    catalogue, and that the operation lists `default`. A 405 needs no `default`, and may be in the form of OAuth."""
    documented = case.operation.definition.raw["responses"]
    if str(response.status_code) in documented:
        return
    # No operation lists 405, which answers a method that its path does not have.
    if "default" not in documented and response.status_code != 405:
        raise AssertionError(f"{response.status_code} is undocumented")
    content_type = response.headers.get("content-type", [""])[0]
    if response.status_code == 405 and content_type == "application/json":
        # The token endpoint answers in the form of OAuth.
        return
    if content_type != MEDIA_TYPE:
        raise AssertionError(f"{response.status_code} is undocumented and {content_type!r}, not {MEDIA_TYPE}")
    problem = response.json()
    if problem["status"] != response.status_code or problem["type"] not in CATALOGUE:
        raise AssertionError(f"{response.status_code} is the problem {problem['type']} of {problem['status']}")


def run_schema(app: ASGIApp, plan: Plan) -> Findings:
    """Call every operation that `app` documents at /openapi.json, and return what was found. This blocks. Raises
    LoaderError if there is no document, and the error of schemathesis that ended the run."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, config=_configuration(plan))
    findings = Findings(operations=set(_labels(schema)))
    for event in from_schema(schema).execute():
        if isinstance(event, events.ScenarioFinished):
            _count(event.recorder, findings)
        elif isinstance(event, events.NonFatalError):
            findings.problems.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.EngineFinished) and event.stop_reason is not StopReason.COMPLETED:
            findings.problems.append(f"the run stopped: {event.stop_reason}")
    return findings


def _configuration(plan: Plan) -> SchemathesisConfig:
    return SchemathesisConfig.from_dict(
        {
            "seed": plan.seed,
            "continue-on-failure": True,
            # A 429 is to be checked like any answer; waiting and asking again would hide it.
            "request-retries": 0,
            "generation": {
                "max-examples": plan.examples,
                "deterministic": True,
                "database": "none",
                "no-shrink": True,
            },
            "phases": {name: {"enabled": name in plan.phases} for name in EVERY_PHASE},
            "checks": {
                "enabled": False,
                # 503 is in our catalogue: it says, with `Retry-After`, that Postgres or a provider is unavailable.
                "not_a_server_error": {"enabled": True, "expected-statuses": ["2xx", "3xx", "4xx", "503"]},
                **{name: {"enabled": True} for name in _CHECKS},
            },
            "parameters": dict(plan.parameters),
            "dictionaries": {name: {"values": values} for name, values in plan.dictionaries.items()},
        }
    )


def _labels(schema: BaseSchema) -> Iterator[str]:
    for result in schema.get_all_operations():
        if isinstance(result, Err):
            raise result.err()
        yield result.ok().label


def _count(recorder: ScenarioRecorder, findings: Findings) -> None:
    for case_id, node in recorder.cases.items():
        label = node.value.operation.label
        findings.cases[label] += 1
        interaction = recorder.interactions.get(case_id)
        if interaction is not None and interaction.response is not None:
            findings.statuses[label, interaction.response.status_code] += 1
        for check in recorder.checks.get(case_id, ()):
            if check.failure_info is not None:
                found = check.failure_info
                findings.problems.append(f"{label}: {check.name}: {found.failure}\n{found.code_sample}")
