"""Tests that a run of schemathesis (`schema_run`) finds the fault of an application that has one, and none in a sound
one."""

import asyncio
from collections.abc import Callable

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from pydantic import BaseModel
from schemathesis.core.errors import LoaderError

from services.user_management.middleware.problems import MEDIA_TYPE
from services.user_management.tests.security.loop_bridge import LoopBridge
from services.user_management.tests.security.schema_run import Findings, Plan, run_schema


class Answer(BaseModel):
    count: int


def _problem(status: int, code: str = "not_found") -> Response:
    return JSONResponse({"type": code, "status": status}, status_code=status, media_type=MEDIA_TYPE)


def _mismatch() -> Response:
    return JSONResponse({"type": "not_found", "status": 400}, status_code=404, media_type=MEDIA_TYPE)


def _application(answer: Callable[[], Response]) -> FastAPI:
    app = FastAPI()

    async def endpoint() -> Response:
        return answer()

    app.add_api_route("/things", endpoint, response_model=Answer, responses=_undescribed_problems())
    return app


def _undescribed_problems() -> dict[int | str, dict[str, object]]:
    """Return the `responses` of a route by which every answer without a description of its own is a problem."""
    return {"default": {"description": "A problem", "content": {MEDIA_TYPE: {}}}}


async def _run(app: FastAPI) -> Findings:
    return await asyncio.to_thread(run_schema, LoopBridge(app), Plan(seed=1, examples=2, phases=("fuzzing",)))


async def test_run_over_an_application_that_keeps_its_word_finds_nothing() -> None:
    findings = await _run(_application(lambda: JSONResponse({"count": 1})))

    assert not findings.problems
    assert findings.cases["GET /things"] > 0
    assert not findings.untried


@pytest.mark.parametrize(
    ("check", "answer"),
    [
        ("not_a_server_error", lambda: _problem(500, "internal_error")),
        ("not_a_server_error", lambda: _problem(502)),
        ("response_schema_conformance", lambda: JSONResponse({"count": "many"})),
        ("content_type_conformance", lambda: PlainTextResponse("1")),
        ("undocumented_answer_is_a_problem", lambda: JSONResponse({"detail": "no"}, status_code=404)),
        ("undocumented_answer_is_a_problem", lambda: _problem(404, "made_up")),
        ("undocumented_answer_is_a_problem", _mismatch),
    ],
)
async def test_run_over_an_application_with_a_fault_names_it(check: str, answer: Callable[[], Response]) -> None:
    findings = await _run(_application(answer))

    assert any(problem.startswith(f"GET /things: {check}: ") for problem in findings.problems), findings.problems


async def test_run_over_an_application_that_crashes_does_not_end_well() -> None:
    def crash() -> Response:
        raise ZeroDivisionError

    findings = await _run(_application(crash))

    assert findings.problems


async def test_run_without_a_document_is_an_error() -> None:
    with pytest.raises(LoaderError):
        await _run(FastAPI(openapi_url=None))


async def test_run_over_an_empty_document_leaves_nothing_tried() -> None:
    findings = await _run(FastAPI())

    assert findings.cases.total() == 0
    assert findings.operations == set()
