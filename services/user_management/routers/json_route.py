"""Routes that read strict JSON: the ordinary one, and a direct one for the hot path."""

from collections.abc import Callable, Coroutine
from typing import Any, get_type_hints

from fastapi import Request
from fastapi.responses import Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from services.user_management.exceptions import InvalidJSONError, UnsupportedMediaTypeError, ValidationFailedError
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


class JSONRoute(APIRoute):
    """The ordinary route: FastAPI's, over strict JSON."""

    def get_route_handler(self) -> Handler:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def handle_json(request: Request) -> Response:
            return await handle(_ParsedRequest(request, await read_json(request)))

        return handle_json


class DirectRoute(APIRoute):
    """The hot path: `endpoint(request, body)` is called without dependency resolution, which takes longer than the
    work itself. Schema and operation id come from the endpoint's signature as ever; it guards itself."""

    def get_route_handler(self) -> Handler:
        endpoint = self.endpoint
        model: type[BaseModel] = get_type_hints(endpoint)["body"]

        async def handle(request: Request) -> Response:
            document = await read_json(request)
            try:
                body = model.model_validate(document)
            except ValidationError as error:
                errors = [{**item, "loc": ("body", *item["loc"])} for item in error.errors()]
                raise ValidationFailedError.of_fields(errors) from None
            answer: BaseModel = await endpoint(request, body)
            return Response(answer.model_dump_json(), media_type="application/json")

        return handle
