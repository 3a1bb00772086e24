"""Tests that call every operation, as every kind of caller, with whatever schemathesis makes of its schema.

No operation is named here: one that is added is called too. What a caller may do is tested by the access matrix; here
nobody may bring about a server error or an answer that the OpenAPI document does not promise.
"""

import asyncio
from dataclasses import replace

import pytest
from fastapi import FastAPI

from services.user_management.tests.routes import documented_routes
from services.user_management.tests.security.callers import CALLERS, DICTIONARIES, Caller
from services.user_management.tests.security.loop_bridge import LoopBridge
from services.user_management.tests.security.schema_run import Findings, Plan, run_schema

SEED = 20261120
NIGHTLY_CASES = 24_000
_EXAMPLES, _EXAMPLES_AT_HOME = 2, 4
_NIGHTLY_EXAMPLES = 60


async def _run(app: FastAPI, caller: Caller, plan: Plan) -> Findings:
    bridge = LoopBridge(app, caller.credential)
    return await asyncio.to_thread(run_schema, bridge, plan)


def _assert_sound(findings: Findings, app: FastAPI) -> None:
    assert not findings.problems, "\n\n".join(findings.problems[:10])
    assert findings.operations == documented_routes(app)
    assert not findings.untried
    # Behind a limit that refuses everything nothing is tested.
    refused = sum(count for (_, status), count in findings.statuses.items() if status == 429)
    assert refused < sum(findings.statuses.values()) / 10, "rate limits have to be out of the way of this run"


def _plan(caller: Caller, *, examples: int) -> Plan:
    return Plan(seed=SEED, examples=examples, parameters=caller.parameters, dictionaries=DICTIONARIES)


@pytest.mark.parametrize("name", CALLERS)
async def test_operations_called_by_anybody_answer_as_documented(
    exposed_app: FastAPI, everybody: dict[str, Caller], name: str
) -> None:
    caller = everybody[name]
    plan = _plan(caller, examples=_EXAMPLES_AT_HOME if caller.at_home else _EXAMPLES)

    # The phase that walks all boundaries of all schemas makes forty cases of each operation: that is for the night.
    findings = await _run(exposed_app, caller, replace(plan, phases=("fuzzing",)))

    _assert_sound(findings, exposed_app)


@pytest.mark.nightly
@pytest.mark.parametrize("name", CALLERS)
async def test_operations_called_for_long_answer_as_documented(
    exposed_app: FastAPI, everybody: dict[str, Caller], name: str
) -> None:
    """Call at least NIGHTLY_CASES over all callers, with operations linked to each other and a new seed each round."""
    caller = everybody[name]
    plan = _plan(caller, examples=_NIGHTLY_EXAMPLES)
    findings = Findings()

    while findings.cases.total() < NIGHTLY_CASES / len(CALLERS):
        before = findings.cases.total()
        findings.add(await _run(exposed_app, caller, plan))
        plan = replace(plan, seed=plan.seed + 1)
        assert findings.cases.total() > before

    _assert_sound(findings, exposed_app)
