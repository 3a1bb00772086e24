"""Structured logs: one event per line, named `noun.verb_past`, with fields, and no secret in any of them."""

import asyncio
import json
import logging
import re
import sys
import textwrap
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from services.user_management.core.context import current_context
from services.user_management.database import describe_database_error

REDACTED: Final = "[redacted]"
_SECRET_NAMES: Final = re.compile(
    r"(authorization|cookie|password|secret|token|api[-_]?key|code|verifier|credential|signature)$", re.IGNORECASE
)
_SECRET_VALUES: Final = re.compile(
    r"ums_[0-9a-f]+_[0-9a-f]+"  # our service keys
    r"|whsec_[A-Za-z0-9+/=]+|sk_(?:live|test)_\w+"
    r"|eyJ[\w-]{5,}\.[\w-]{5,}\.[\w-]*"  # JWTs
    r"|(?i:bearer|basic)\s+[\w.~+/=-]{8,}"
    r"|(?i:access_token|refresh_token|client_secret|code|state|code_verifier|id_token)[\"']?\s*[=:]\s*[\"']?[^\s&\"',}]+"
    r"|(?<=://)[^/\s:@]*:[^/\s@]+(?=@)"  # user:password in a URL
    # Postgres quotes rows and arguments in these, over as many lines as they have.
    r"|(?<=DETAIL:)(?s:.+)|(?<=CONTEXT:)(?s:.+)|(?<=HINT:)(?s:.+)"
    r"|[\w.%+-]+@[\w-]+(?:\.[\w-]+)+"  # e-mail addresses
)


_CAUSE: Final = "The above exception was the direct cause of the following exception:"
_CONTEXT: Final = "During handling of the above exception, another exception occurred:"
MAX_SUMMARY_CHARACTERS: Final = 500


def redact(value: Any, name: str = "") -> Any:
    """Return `value`, the value of the field `name`, with `[redacted]` in place of secrets. Secrets are recognised by
    the name of their field, in dictionaries too, or by their form. Values that JSON cannot express become text."""
    if name and isinstance(value, str | bytes) and _SECRET_NAMES.search(name):
        return REDACTED
    if isinstance(value, str):
        return _SECRET_VALUES.sub(REDACTED, value)
    if isinstance(value, dict):
        return {key: redact(item, str(key)) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return summarize_error(value) if isinstance(value, BaseException) else redact(str(value))


def summarize_error(error: BaseException) -> str:
    """Return one line about `error`, of at most 500 characters, that may be stored and logged: its type, and the first
    line of its text without secrets. For a database error the line has the driver's name for it, SQLSTATE and
    constraint instead of the text, which quotes rows."""
    text = describe_database_error(error) or redact(next(iter(str(error).splitlines()), ""))
    return f"{type(error).__name__}: {text}".removesuffix(": ")[:MAX_SUMMARY_CHARACTERS]


def _origins(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """Yield `error`, then its cause (or the error during whose handling it was raised), then the cause of that, and so
    on, as Python's own tracebacks do. Errors whose id is in `seen` are left out; those that are yielded are added to
    it."""
    origin: BaseException | None = error
    while origin is not None and id(origin) not in seen:
        seen.add(id(origin))
        yield origin
        origin = origin.__cause__ if origin.__suppress_context__ else origin.__context__


def _database_errors(error: BaseException, seen: set[int]) -> Iterator[BaseException]:
    """Yield the database errors among `error`, its causes and, if it is a group, its members and their causes. `seen`
    is as in `_origins`."""
    for one in _origins(error, seen):
        if describe_database_error(one) is not None:
            yield one
        for member in one.exceptions if isinstance(one, BaseExceptionGroup) else ():
            yield from _database_errors(member, seen)


def _traceback(error: BaseException, seen: set[int]) -> str:
    """Return the traceback much as Python renders it, the oldest error first, with the description of a database error
    (`describe_database_error`) in place of its text. `seen` is as in `_origins`."""
    told: list[str] = []
    for one in _origins(error, seen):
        frames = "".join(["Traceback (most recent call last):\n", *traceback.format_tb(one.__traceback__)])
        name = f"{type(one).__module__}.{type(one).__qualname__}".removeprefix("builtins.")
        members = one.exceptions if isinstance(one, BaseExceptionGroup) else ()
        grouped = "".join("\n" + textwrap.indent(_traceback(member, seen), "  | ") for member in members)
        text = describe_database_error(one) or str(one)
        told.append(f"{frames if one.__traceback__ else ''}{name}: {text}{grouped}")
        told.append(_CONTEXT if one.__cause__ is None else _CAUSE)
    return "\n\n".join(reversed(told[:-1]))


def _render_error(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the traceback of `exc_info` into the event, as `exception`. In the event's message, where Celery and asyncio
    repeat an error's text, replace the text of a database error, or of one among its causes, by its summary
    (`summarize_error`)."""
    exc_info = event.pop("exc_info", None)
    if exc_info is True:
        exc_info = sys.exc_info()
    error = exc_info[1] if isinstance(exc_info, tuple) else exc_info
    if not isinstance(error, BaseException):
        return event
    event["exception"] = _traceback(error, set())
    for one in _database_errors(error, set()):
        for text in filter(None, (repr(one), str(one))):
            event["event"] = str(event["event"]).replace(text, summarize_error(one))
    return event


def _redact_event(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: redact(value, key) for key, value in event.items()}


def _add_context(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    context = current_context()
    if context.request_id != "-":
        event.setdefault("request_id", context.request_id)
    return event


class RequestLog:
    """Writes the log line of each request. All its fields are our own (a method, a route's template, numbers, an id),
    so JSON lines bypass the chain of processors, whose search for secrets would take a quarter of the time of
    `GET /users/me`. The lines of requests that end in the same round of the event loop are written together, which
    saves another 7 %."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("services.user_management.access")
        self._stream: TextIO | None = None
        self._lines: list[str] = []

    def write_to(self, stream: TextIO | None) -> None:
        """Write JSON lines directly to `stream` from now on; if it is None, log through the chain of processors
        again."""
        self._stream = stream

    def __call__(self, **fields: str | float) -> None:
        """Write one line with `fields` and the request's id, before the event loop waits again."""
        if self._stream is None:
            self._log.info("request.completed", **fields)
            return
        context = current_context()
        line = {
            **fields,
            "request_id": context.request_id,
            "event": "request.completed",
            "level": "info",
            "logger": "services.user_management.access",
            "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        }
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write, self._stream)
        self._lines.append(json.dumps(line) + "\n")

    def _write(self, stream: TextIO) -> None:
        lines, self._lines = self._lines, []
        stream.write("".join(lines))
        stream.flush()


log_request: Final = RequestLog()


def configure_logging(*, level: str, json_lines: bool, stream: TextIO = sys.stdout) -> None:
    """Send all log events of at least `level`, those of libraries too, through one chain of processors to `stream`, as
    JSON or as readable lines. Some loggers of Celery, httpx and httpcore are limited to WARNING and above."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_context,
        structlog.processors.StackInfoRenderer(),
        _render_error,
    ]
    renderer: Processor = (
        structlog.processors.JSONRenderer() if json_lines else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    # Redaction is the last step before rendering: it sees formatted messages and tracebacks too.
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _redact_event, renderer],
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    log_request.write_to(stream if json_lines and root.isEnabledFor(logging.INFO) else None)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "celery", "celery.task", "celery.redirected"):
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True
    # Lines about ticks, every two seconds, would drown everything else; failures are logged above this level.
    for name in ("celery.beat", "celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # httpx logs every URL at INFO, and our URLs carry codes and tokens.
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)
