"""Tests that neither a secret nor what a database error quotes of a row reaches a log line, whichever way it is logged,
and that the rest of the line is kept."""

import io
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import asyncpg
import pytest
import structlog
from sqlalchemy.exc import DBAPIError, IntegrityError

from services.user_management.container import Container
from services.user_management.core.context import RequestContext, use_context
from services.user_management.core.ids import uuid7
from services.user_management.logging_config import configure_logging, redact, summarize_error
from services.user_management.models import ServiceClient
from services.user_management.tests.actors import TESTER

CANARIES = {
    "service key": "ums_0123456789ab_" + "c" * 64,
    "webhook secret": "whsec_Y2FuYXJ5Y2FuYXJ5Y2FuYXJ5",
    "session": "eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJl",
    "bearer": "Bearer canary-access-token-0123456789",
    "query": "https://api.example/oauth/callback?code=canary-code-123&state=canary-state-456",
    "form": "grant_type=refresh_token&refresh_token=canary-refresh-789",
    "json": '{"access_token": "canary-access-000"}',
    "database url": "postgresql://user:canary-password@db.example/users",
    "e-mail": "canary@example.com",
}
QUOTED = "canary one\ncanary two"
MARKS = ("canary", "c" * 64, "Y2FuYXJ5", "eyJzdWIi")


@pytest.fixture
def output() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    configure_logging(level="INFO", json_lines=True, stream=stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.mark.parametrize("name", CANARIES)
def test_secret_in_any_position_is_redacted(output: io.StringIO, name: str) -> None:
    planted = CANARIES[name]
    log = structlog.get_logger("test")

    log.info("thing.happened", field=planted, nested={"deep": [planted, {"deeper": planted}]})
    log.warning("thing.formatted %s", planted)
    logging.getLogger("library").warning("a library says %s", planted)
    try:
        raise RuntimeError(planted)  # noqa: TRY301 - to be logged
    except RuntimeError:
        log.exception("thing.failed")

    text = output.getvalue()
    assert len(text.splitlines()) == 4
    assert not any(mark in text for mark in MARKS), text


@pytest.mark.parametrize("field", ["password", "client_secret", "access_token", "Authorization", "cookie", "api_key"])
def test_field_with_a_secrets_name_is_redacted_whatever_it_holds(field: str) -> None:
    assert redact({field: "plain words"}) == {field: "[redacted]"}


def test_line_carries_the_request_id_and_plain_fields(output: io.StringIO) -> None:
    with use_context(RequestContext(request_id="req-1")):
        structlog.get_logger("test").info("refresh.succeeded", count=3, ok=True, provider="google")

    line = json.loads(output.getvalue())

    assert line["event"] == "refresh.succeeded"
    assert line["request_id"] == "req-1"
    assert (line["count"], line["ok"], line["provider"]) == (3, True, "google")


def test_newline_in_a_value_cannot_forge_a_line(output: io.StringIO) -> None:
    structlog.get_logger("test").info("thing.happened", field='x"}\n{"event": "forged.line"}')

    lines = output.getvalue().splitlines()

    assert [json.loads(line)["event"] for line in lines] == ["thing.happened"]


def _driver_error(error: DBAPIError) -> BaseException:
    cause = error.orig and error.orig.__cause__
    assert cause is not None
    return cause


@pytest.fixture
async def quoting(container: Container, clean_database: None) -> DBAPIError:
    """Give a database error whose cause, the driver's error, quotes a value of two lines."""

    async def insert() -> None:
        async with container.resources.unit_of_work(TESTER) as uow:
            await ServiceClient.objects.create(id=uuid7(), name=QUOTED, permissions=[], created_at=uow.clock.now())

    await insert()
    with pytest.raises(IntegrityError) as caught:
        await insert()
    assert "canary two" in str(_driver_error(caught.value))
    return caught.value


@pytest.fixture
async def unreadable(container: Container) -> DBAPIError:
    """Return a database error (text that is no UUID) whose message quotes a two-line value. The quotation starts on the
    first line of the message."""
    async with container.resources.database.reading() as connection:
        with pytest.raises(DBAPIError, match="canary two") as caught:
            await connection.exec_driver_sql("SELECT CAST($1 AS text)::uuid", (QUOTED,))
    return caught.value


def _as_cause(error: Exception) -> Exception:
    try:
        raise RuntimeError("wrapped") from error  # noqa: TRY301 - to be logged
    except RuntimeError as wrapped:
        return wrapped


def _as_context(error: Exception) -> Exception:
    try:
        try:
            raise error
        except DBAPIError:
            raise RuntimeError("while handling")  # noqa: B904 - the chain that nobody asked for
    except RuntimeError as wrapped:
        return wrapped


WAYS: dict[str, Callable[[Any], BaseException]] = {
    "itself": lambda error: error,
    "the driver's": _driver_error,
    "cause": _as_cause,
    "context": _as_context,
    "group": lambda error: ExceptionGroup("several", [_as_cause(error)]),
    "quoted": lambda error: RuntimeError(f"it said {error}: {_driver_error(error)}"),
}


@pytest.mark.parametrize("way", WAYS)
def test_traceback_of_a_database_error_names_the_constraint_and_quotes_no_row(
    output: io.StringIO, quoting: DBAPIError, way: str
) -> None:
    error = WAYS[way](quoting)

    structlog.get_logger("test").error("thing.failed", exc_info=error)
    logging.getLogger("library").error("a library fails", exc_info=error)

    assert "canary" not in output.getvalue()
    for line in output.getvalue().splitlines():
        assert "uc_service_clients_name" in json.loads(line)["exception"]


@pytest.mark.parametrize("kind", ["quoting", "unreadable"])
def test_database_error_that_is_logged_as_text_quotes_no_row(
    output: io.StringIO, kind: str, request: pytest.FixtureRequest
) -> None:
    error: DBAPIError = request.getfixturevalue(kind)

    # Celery and asyncio log errors in this way.
    logging.getLogger("library").error("task failed: %r", error, exc_info=error)
    structlog.get_logger("test").warning("thing.failed", error=error, summary=summarize_error(error))

    assert "canary" not in output.getvalue()
    message, fields = (json.loads(line) for line in output.getvalue().splitlines())
    assert message["event"] == f"task failed: {summarize_error(error)}"
    assert fields["error"] == fields["summary"] == summarize_error(error)


def test_group_that_is_logged_as_text_quotes_no_row_of_its_members(output: io.StringIO, unreadable: DBAPIError) -> None:
    error = ExceptionGroup("several", [ValueError("plain"), unreadable])

    logging.getLogger("library").error("task failed: %r", error, exc_info=error)

    assert "canary" not in output.getvalue()
    assert "ValueError('plain')" in json.loads(output.getvalue())["event"]


def test_message_is_kept_if_a_database_error_has_no_text(output: io.StringIO) -> None:
    structlog.get_logger("test").error("thing.failed", exc_info=asyncpg.InterfaceError(""))

    assert json.loads(output.getvalue())["event"] == "thing.failed"


def test_traceback_reads_like_pythons_own(output: io.StringIO) -> None:
    try:
        raise _as_cause(ValueError("two\nlines"))
    except RuntimeError as error:
        expected = "".join(traceback.format_exception(error)).rstrip()
        structlog.get_logger("test").exception("thing.failed")

    assert json.loads(output.getvalue())["exception"] == expected


def test_member_that_is_raised_while_its_group_is_handled_is_told_once(output: io.StringIO) -> None:
    try:
        try:
            raise ExceptionGroup("several", [ValueError("member")])  # noqa: TRY301 - to be logged
        except ExceptionGroup as group:
            raise group.exceptions[0]  # noqa: B904 - its context is then the group that holds it
    except ValueError:
        structlog.get_logger("test").exception("thing.failed")

    assert json.loads(output.getvalue())["exception"].count("ValueError: member") == 1


def test_errors_that_lead_to_each_other_are_told_once(output: io.StringIO) -> None:
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first

    structlog.get_logger("test").error("thing.failed", exc_info=first)

    assert json.loads(output.getvalue())["exception"].count("ValueError: first") == 1
