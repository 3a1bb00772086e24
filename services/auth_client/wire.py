"""Translation of token requests into bodies for the service's internal token API, and of its answers into tokens and
problems."""

import json
import re
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Final

from services.auth_client.errors import SERVICE_UNREACHABLE, UNEXPECTED_ANSWER, Problem
from services.auth_client.tokens import Token, TokenRequest

GET_PATH: Final = "/internal/tokens/get"
REFRESH_PATH: Final = "/internal/tokens/refresh"
BATCH_PATH: Final = "/internal/tokens/batch-get"
BATCH_SIZE: Final = 100

Outcome = Token | Problem

_TEXTS: Final = ("access_token", "token_type", "provider", "account", "integration_id")
_SECONDS: Final = re.compile(r"[0-9]{1,6}")


@dataclass(frozen=True, slots=True)
class Answer:
    """The parts of a completely read HTTP answer that the client uses."""

    status: int
    body: bytes
    retry_after: str | None


def members(request: TokenRequest) -> dict[str, Any]:
    """Return the JSON object that asks for one token, without the members that were not given."""
    return {name: value for name, value in asdict(request).items() if value not in (None, ())}


def outcome_of(answer: Answer) -> Outcome:
    """Return the token in the answer to a single request, or the problem that says why there is none."""
    document = _json_object(answer.body)
    if answer.status != 200:
        return _problem(document, answer)
    return _token(document) or _unexpected(answer, "a 200 without a token")


def outcomes_of_batch(answer: Answer, count: int) -> list[Outcome]:
    """Return one outcome for each of `count` items, in the order of the requests. If the whole batch was refused, or
    the answer is not a list of that length, each item gets the same problem."""
    document = _json_object(answer.body)
    if answer.status != 200:
        return [_problem(document, answer)] * count
    items = document.get("items")
    if not isinstance(items, list) or len(items) != count:
        return [_unexpected(answer, "a batch of another length than was asked for")] * count
    return [_item(item, answer) for item in items]


def unreachable(error: Exception) -> Problem:
    """Return the problem for a request that got no answer. Its text names only the class of `error`, since the messages
    of HTTP libraries may quote headers."""
    return Problem(SERVICE_UNREACHABLE, f"the user management service gave no answer: {type(error).__name__}")


def _item(item: Any, answer: Answer) -> Outcome:
    if not isinstance(item, dict):
        return _unexpected(answer, "an item that is not an object")
    token, problem = item.get("token"), item.get("problem")
    if isinstance(token, dict):
        return _token(token) or _unexpected(answer, "an item without a token")
    if isinstance(problem, dict) and isinstance(problem.get("type"), str):
        return _problem(problem, Answer(_whole_number(problem.get("status")) or 500, b"", None))
    return _unexpected(answer, "an item with neither token nor problem")


def _token(document: dict[str, Any]) -> Token | None:
    """Return the token in the document, or None if the document is not a well-formed token, for instance because
    another program answers at the service's address."""
    end, left, scopes = document.get("expires_at"), document.get("expires_in"), document.get("scopes")
    texts = [_text(document, name) for name in _TEXTS]
    if not all(texts) or not isinstance(scopes, list) or (left is not None and _whole_number(left) is None):
        return None
    try:
        expires_at = None if end is None else datetime.fromisoformat(end)
    except (TypeError, ValueError):
        return None
    return Token(
        **dict(zip(_TEXTS, map(str, texts), strict=True)),
        expires_at=expires_at,
        expires_in=left,
        scopes=tuple(str(scope) for scope in scopes),
        refreshed=document.get("refreshed") is True,
    )


def _problem(document: dict[str, Any], answer: Answer) -> Problem:
    code = _text(document, "type")
    if code is None:
        # Not from the service but from a proxy in front of it, which answers like this while no replica is up.
        return _unexpected(answer, f"HTTP {answer.status} without a problem document")
    seconds = answer.retry_after if answer.retry_after is not None else str(document.get("retry_after"))
    missing = document.get("missing_scopes")
    return Problem(
        code=code,
        detail=f"{_text(document, 'detail') or code}{_faults(document)}",
        status=answer.status,
        request_id=_text(document, "request_id"),
        # A date (RFC 9110 section 10.2.3) is ignored: it would need this machine's clock to be right.
        retry_after=int(seconds) if _SECONDS.fullmatch(seconds) else None,
        reconnect_url=_text(document, "reconnect_url"),
        reason=_text(document, "reason"),
        missing_scopes=tuple(str(scope) for scope in missing) if isinstance(missing, list) else (),
    )


def _faults(document: dict[str, Any]) -> str:
    """Return a text, to append to the detail, with each field that a validation error names and what is wrong with it;
    empty if it names none. The service never repeats the fields' values."""
    details = document.get("details")
    errors = details.get("errors") if isinstance(details, dict) else None
    if not isinstance(errors, list):
        return ""
    named = [error for error in errors if isinstance(error, dict) and isinstance(error.get("loc"), list)]
    return "".join(f"; {'.'.join(map(str, error['loc']))}: {error.get('msg')}" for error in named)


def _unexpected(answer: Answer, what: str) -> Problem:
    temporary = answer.status in {408, 429} or answer.status >= 500
    seconds = answer.retry_after or ""
    return Problem(
        code=SERVICE_UNREACHABLE if temporary else UNEXPECTED_ANSWER,
        detail=f"not an answer of the user management service: {what}",
        status=answer.status,
        retry_after=int(seconds) if _SECONDS.fullmatch(seconds) else None,
    )


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _text(document: dict[str, Any], name: str) -> str | None:
    value = document.get(name)
    return value if isinstance(value, str) and value else None


def _whole_number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
