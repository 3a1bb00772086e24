"""The route class of most endpoints. It reads the body only after the guards (the dependencies that authenticate the
caller and count the request) have passed, as strict JSON: without duplicate names, NaN or deep nesting. Also its
variant for fixed paths, and the dependency that allows a larger body."""

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial, wraps
from typing import Annotated, Any, get_type_hints

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel, ValidationError, WrapValidator
from starlette.routing import Match
from starlette.types import Scope

from services.user_management.core.context import allow_body
from services.user_management.core.parsing import parse_aside
from services.user_management.exceptions import InvalidJSONError, UnsupportedMediaTypeError, ValidationFailedError
from services.user_management.routers.strict_route import StrictRoute
from services.user_management.utils import strict_json

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
Endpoint = Callable[..., Coroutine[Any, Any, Any]]


def body_up_to(limit: int) -> Callable[[Request], Awaitable[None]]:
    """Return a dependency that lets a body of up to `limit` bytes be read, for routes that need more than the usual 64
    KiB. Declare it after the guards."""

    async def allow_larger_body(_request: Request) -> None:
        allow_body(limit)

    return allow_larger_body


async def read_json(model: type[BaseModel], request: Request) -> BaseModel:
    """Read the body as strict JSON, and return it as an instance of `model`. Raises UnsupportedMediaTypeError,
    BodyTooLargeError, InvalidJSONError or ValidationFailedError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaTypeError
    return await parse_aside(partial(_parse, model), await request.body())


def _parse(model: type[BaseModel], raw: bytes) -> BaseModel:
    try:
        return model.model_validate(strict_json.loads(raw))
    except strict_json.StrictJSONError as error:
        raise InvalidJSONError(f"The body is not strict JSON: {error}.") from None
    except ValidationError as error:
        listed = error.errors(include_url=False, include_context=False, include_input=False)
        raise ValidationFailedError.of_fields({**item, "loc": ("body", *item["loc"])} for item in listed) from None


class _UnreadRequest(Request):
    """A request whose body FastAPI does not get: `body` and `json` return the request itself. FastAPI would otherwise
    read the body before it runs the guards."""

    async def body(self) -> Any:
        return self

    async def json(self) -> Any:
        return self


class JSONRoute(StrictRoute):
    """The route class of most endpoints. Unlike FastAPI's own, it reads the endpoint's `body` as strict JSON, after the
    guards have passed and all other parameters were found valid."""

    def __init__(self, path: str, endpoint: Endpoint, **options: Any) -> None:
        model = get_type_hints(endpoint).get("body")
        super().__init__(path, endpoint if model is None else _reading_last(endpoint, model), **options)

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_unread(request: Request) -> Response:
            return await handle(_UnreadRequest(request.scope, request.receive))

        return handle_unread


class OwnPathRoute(JSONRoute):
    """The route class of a fixed path (`/users/search`) that is matched by a path template too (`/users/{user_id}`). A
    request with a method that the fixed path does not support gets 405 here, and does not reach the template's
    route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), child_scope


def _unread(body: Any, _validate: Callable[[Any], Any]) -> Any:
    """Return `body`, the unread request, as it is. As a wrap validator, this replaces the model's validation and leaves
    its schema unchanged."""
    return body


def _reading_last(endpoint: Endpoint, model: type[BaseModel]) -> Endpoint:
    """Return `endpoint` wrapped, so that its `body` is read after all dependencies have run. FastAPI passes the unread
    request to the wrapper, and describes the model in the OpenAPI document as before."""

    @wraps(endpoint)
    async def read_and_call(*, body: _UnreadRequest, **others: Any) -> Any:
        return await endpoint(body=await read_json(model, Request(body.scope, body.receive)), **others)

    signature = inspect.signature(endpoint)
    parameters = signature.parameters | {
        "body": signature.parameters["body"].replace(annotation=Annotated[model, WrapValidator(_unread)])
    }
    read_and_call.__signature__ = signature.replace(parameters=list(parameters.values()))  # type: ignore[attr-defined]  # what inspect.signature looks for
    return read_and_call
