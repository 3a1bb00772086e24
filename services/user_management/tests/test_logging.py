"""No secret reaches a log line, whichever way it is logged."""

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from services.user_management.core.context import RequestContext, use_context
from services.user_management.logging_config import configure_logging, redact

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
