"""Routes that read strict JSON: the ordinary one, and a direct one for the hot paths."""

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, get_type_hints

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.routing import Match
from starlette.types import Scope

from services.user_management.exceptions import (
    ApplicationError,
    InvalidJSONError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from services.user_management.routers.conditional import answer_conditionally
from services.user_management.routers.strict_route import StrictRoute, refuse_unknown_query
from services.user_management.utils import strict_json

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


async def read_json(request: Request) -> Any:
    """The body as strict JSON. Raises UnsupportedMediaTypeError or InvalidJSONError."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not (
        media_type.startswith("application/") and media_type.endswith("+json")
    ):
        raise UnsupportedMediaTypeError
    try:
        return strict_json.loads(await request.body())
    except strict_json.StrictJSONError as error:
        raise InvalidJSONError(f"The body is not strict JSON: {error}.") from None


class _ParsedRequest(Request):
    """A request whose JSON was read already, so that FastAPI does not read it its own way."""

    def __init__(self, request: Request, document: Any) -> None:
        super().__init__(request.scope, request.receive)
        self._document = document

    async def body(self) -> bytes:
        return b"{}"

    async def json(self) -> Any:
        return self._document


_UNREADABLE: Final = object()
"""Stands for a body that is not JSON; no schema accepts it."""


class JSONRoute(StrictRoute):
    """The ordinary route: FastAPI's, over strict JSON. Guards speak before a broken body does."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            try:
                document = await read_json(request)
            except (InvalidJSONError, UnsupportedMediaTypeError) as broken:
                return await _refuse_broken(handle, request, broken)
            return await handle(_ParsedRequest(request, document))

        return handle_json


class OwnPathRoute(JSONRoute):
    """The route of a path that a template would fit too (`/users/search`, `/users/{user_id}`): a method that it does
    not have ends here, with 405, and not at the template."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        return (Match.FULL if match is Match.PARTIAL else match), child_scope


async def _refuse_broken(handle: Handler, request: Request, broken: ApplicationError) -> Response:
    """FastAPI runs the guards, then finds that the body fits no schema: who may not call hears of that instead."""
    try:
        return await handle(_ParsedRequest(request, _UNREADABLE))
    except RequestValidationError:
        raise broken from None


class DirectRoute(APIRoute):
    """The hot paths: guards and endpoint are called without dependency resolution, which takes longer than the work.

    Declared as any route, so schema and operation id are as ever. Guards are the route's `dependencies`, called with
    the request alone, before the body is read. The endpoint takes `request`, then what it names of the path
    parameters, then `body`; it returns a model.
    """

    def get_route_handler(self) -> Handler:
        guards: list[Callable[[Request], Awaitable[Any]]] = [
            guard.dependency for guard in self.dependencies if guard.dependency is not None
        ]
        endpoint = self.endpoint
        hints = get_type_hints(endpoint)
        model: type[BaseModel] | None = hints.get("body")
        path_parameters = [name for name in self.param_convertors if name in hints]

        async def handle(request: Request) -> Response:
            for guard in guards:
                await guard(request)
            if request.scope["query_string"]:
                refuse_unknown_query(request, frozenset())
            arguments = {name: request.path_params[name] for name in path_parameters}
            if model is not None:
                arguments["body"] = _parse(model, await read_json(request))
            answer: BaseModel = await endpoint(request, **arguments)
            return answer_conditionally(request, answer)

        return handle


def _parse(model: type[BaseModel], document: Any) -> BaseModel:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
        raise ValidationFailedError.of_fields(errors) from None
