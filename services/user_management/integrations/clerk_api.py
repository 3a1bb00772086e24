"""Reads users from Clerk's Backend API, through Clerk's own SDK, for the reconciliation, which compares all our users
with Clerk's.

Importing this module costs a process about 35 MB and 0.2 s, nearly all of it the SDK's generated models (measured with
7.0.0). Only the worker and the CLI reconcile, so no module that an API process imports may import this one.
`container.reconciliation` imports it, and no other module of the container imports `container.reconciliation`.
"""

import asyncio
import json
import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import quote

from clerk_backend_api import Clerk
from clerk_backend_api.models import GetUserListRequest
from pydantic import SecretStr

from services.user_management.exceptions import ApplicationError, ClerkRefusedError, RetryLaterError
from services.user_management.http_client import HttpClient, ResponseTooLargeError, TransportError, create_http_client
from services.user_management.utils.strict_json import storable

CALL_SECONDS: Final = 10.0
"""The time for one whole call. The SDK's own retries, which can last for minutes, are off: the next reconciliation asks
again anyway."""
IDS_PER_CALL: Final = 100
"""The number of ids that Clerk takes in one filter."""
MAX_PAGE_BYTES: Final = 32 << 20
"""The longest answer that is read: twice the largest page, which has 500 users with 24 KB of metadata each."""
RATE_WINDOW_SECONDS: Final = 10
"""The period of Clerk's rate limits, and so the time to wait after a 429 without `Retry-After`."""
MAX_RETRY_AFTER_SECONDS: Final = 3600

ClerkUser = dict[str, Any]
"""A user as Clerk describes them: the same object as `data` in webhooks about users."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def document(self) -> Any:
        """Return the JSON value in the body; None if the body is not JSON, such as a proxy's page."""
        try:
            return storable(json.loads(self.body))
        except (ValueError, RecursionError):
            return None

    @property
    def error_codes(self) -> list[str]:
        """Return the codes of a refusal in Clerk's form, `{"errors": [{"code": …}]}`; an empty list for any other
        body."""
        document = self.document
        errors = document.get("errors") if isinstance(document, dict) else None
        return [str(error.get("code")) for error in errors or () if isinstance(error, dict)]

    @property
    def retry_after(self) -> int:
        """Return the seconds to wait before the next call (RFC 9110 section 10.2.3), at most an hour. Dates are not
        read, since Clerk sends seconds; without a number, the result is 10 for a 429 and 1 for any other status."""
        given = self.headers.get("retry-after", "")
        default = RATE_WINDOW_SECONDS if self.status == 429 else 1
        return min(int(given), MAX_RETRY_AFTER_SECONDS) if re.fullmatch("[0-9]{1,9}", given) else default


class _AnsweredError(Exception):
    def __init__(self, answer: _Answer) -> None:
        self.answer = answer
        super().__init__(answer.status)


class _AnswerCatcher:
    """The HTTP client that we give to the SDK. It sends the requests that the SDK builds, and raises each answer as an
    _AnsweredError, so that the SDK does not parse the answer.

    We cannot use the SDK's models of the answer. They are stricter than Clerk: one verification status that this
    release does not know, or a null in place of a number, makes the whole page of users fail, and members that the
    models do not know are lost; but a user must look the same here as in a webhook. The SDK has no other public way to
    the body of a successful answer, and its hooks are private.
    """

    def __init__(self, http: HttpClient) -> None:
        self._http = http

    def build_request(self, method: str, url: Any, **parts: Any) -> Any:
        # Uncompressed, so that the limit below applies to what is parsed, and a broken encoding is merely no JSON.
        request = self._http.build_request(method, url, **parts)
        request.headers["Accept-Encoding"] = "identity"
        return request

    async def send(self, request: Any, **_: Any) -> NoReturn:
        response = await self._http.send(request, stream=True)
        body = bytearray()
        try:
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_PAGE_BYTES:
                    raise ResponseTooLargeError("the page is larger than 32 MiB", request=request)
        finally:
            await response.aclose()
        raise _AnsweredError(_Answer(response.status_code, response.headers, bytes(body)))

    async def aclose(self) -> None:
        await self._http.aclose()


class ClerkDirectory:
    """The users that Clerk has. Every method raises RetryLaterError for failures that pass (rate limits, timeouts, 5xx,
    failed connections, answers that are not Clerk's) and ClerkRefusedError for what the operator has to change."""

    def __init__(
        self,
        *,
        api_url: str,
        secret_key: SecretStr,
        http: HttpClient | None = None,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        """Prepare the SDK; nothing is sent yet. `http` is used in place of a client of our own, and its owner has to
        close it."""
        self._http = http or create_http_client()
        self._owns_http = http is None
        self._call_seconds = call_seconds
        self._users = Clerk(
            bearer_auth=secret_key.get_secret_value,
            server_url=api_url,
            async_client=_AnswerCatcher(self._http),
            retry_config=None,
        ).users

    async def list_users(self, *, offset: int, limit: int) -> list[ClerkUser]:
        """Return one page of users, the oldest first; `limit` is 1 to 500. If a user is deleted between two pages,
        later users move up one place, and the next page misses one."""
        request = GetUserListRequest(offset=offset, limit=limit, order_by="+created_at")
        return _users(await self._answer(self._users.list_async(request=request)))

    async def existing(self, user_ids: Sequence[str]) -> set[str]:
        """Return those of `user_ids` that Clerk has; this takes one call for every hundred ids."""
        found: set[str] = set()
        for start in range(0, len(user_ids), IDS_PER_CALL):
            asked = list(user_ids[start : start + IDS_PER_CALL])
            request = GetUserListRequest(user_id=asked, limit=IDS_PER_CALL)
            page = {user["id"] for user in _users(await self._answer(self._users.list_async(request=request)))}
            if not page <= set(asked):
                # The filter was not applied, so an id's absence proves nothing, and absent users get deleted.
                raise RetryLaterError("Clerk's Backend API answered with users that were not asked for.")
            found |= page
        return found

    async def get_user(self, user_id: str) -> ClerkUser | None:
        """Return one user; None only if Clerk itself says that there is no such user. Any other 404 raises."""
        # The SDK puts the id into the path as it is: "x/../y" would ask for y.
        answer = await self._answer(self._users.get_async(user_id=quote(user_id, safe="")))
        if answer.status == 404 and "resource_not_found" in answer.error_codes:
            return None
        return _user(_document(answer), user_id)

    async def aclose(self) -> None:
        """Close the connections, unless the HTTP client was given to the constructor."""
        if self._owns_http:
            await self._http.aclose()

    async def _answer(self, call: Awaitable[object]) -> _Answer:
        try:
            async with asyncio.timeout(self._call_seconds):
                await call
        except _AnsweredError as answered:
            return answered.answer
        except (TransportError, TimeoutError) as error:
            raise RetryLaterError(f"Clerk's Backend API does not answer: {type(error).__name__}.") from None
        raise RuntimeError("the SDK returned without sending a request")


def _document(answer: _Answer) -> Any:
    """Return the JSON of an answer with status 200; None if its body is not JSON. Raises RetryLaterError or
    ClerkRefusedError for any other status."""
    if answer.status != 200:
        raise _failure(answer)
    return answer.document


def _users(answer: _Answer) -> list[ClerkUser]:
    document = _document(answer)
    if not isinstance(document, list):
        raise RetryLaterError("Clerk's Backend API did not answer with a list of users.")
    return [_user(item) for item in document]


def _user(item: Any, user_id: str | None = None) -> ClerkUser:
    if not isinstance(item, dict) or not isinstance(item.get("id"), str) or user_id not in {None, item["id"]}:
        raise RetryLaterError("Clerk's Backend API answered with something that is not the user.")
    return item


def _failure(answer: _Answer) -> ApplicationError:
    codes = answer.error_codes
    if not _is_refusal(answer, codes):
        detail = f"Clerk's Backend API gave no usable answer ({answer.status})."
        return RetryLaterError(detail, retry_after=answer.retry_after)
    cause = " ".join([str(answer.status), *codes])
    return ClerkRefusedError(f"{ClerkRefusedError.default_detail} It answered {cause}.")


def _is_refusal(answer: _Answer, codes: list[str]) -> bool:
    """Tell whether Clerk itself refused the request, so that asking again does not help. False for rate limits and 5xx,
    and for an HTML page of any status, which comes from a proxy on the way."""
    if answer.status in {401, 403}:
        return "html" not in answer.headers.get("content-type", "")
    return 400 <= answer.status < 500 and answer.status != 429 and bool(codes)
