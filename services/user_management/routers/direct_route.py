"""The route for the hot paths (the most frequent requests). It calls guards and endpoint without FastAPI's resolution
of dependencies, and without the wrappers that an ordinary route puts around its endpoint: each of the two takes longer
than the work itself."""

from collections.abc import Awaitable, Callable
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from services.user_management.routers.conditional import answer_conditionally
from services.user_management.routers.json_route import read_json
from services.user_management.routers.strict_route import refuse_unknown_query


class DirectRoute(APIRoute):
    """A route that is declared as any other, but whose only status of success is 200. Its router's routes are added to
    `app.router.routes` directly: `include_router` would match each request twice.

    Guards are the route's `dependencies`, called with the request alone, before the body is read. The endpoint takes
    `request`, then the path parameters that it names, then `body`; it returns a model. A model with an `etag` is
    answered conditionally, so that 304 is possible too. Unknown query parameters are refused. Errors are left to the
    application's exception handlers.
    """

    def __init__(self, path: str, endpoint: Callable[..., Awaitable[BaseModel]], **options: Any) -> None:
        if options.get("status_code") is not None:
            raise TypeError("a direct route answers with 200")
        # What the application would make of the endpoint's name if it included the router.
        options["operation_id"] = options.get("operation_id") or endpoint.__name__
        super().__init__(path, endpoint, **options)
        hints = get_type_hints(endpoint)
        self._guards: list[Callable[[Request], Awaitable[Any]]] = [
            guard.dependency for guard in self.dependencies if guard.dependency is not None
        ]
        self._model: type[BaseModel] | None = hints.get("body")
        self._path_parameters = [name for name in self.param_convertors if name in hints]
        self._is_tagged = hasattr(hints["return"], "etag")

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request for the route's path. If the route does not have its method, FastAPI answers with 405."""
        if scope["method"] not in (self.methods or ()):
            await super().handle(scope, receive, send)
            return
        response = await self._respond(Request(scope, receive))
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        for guard in self._guards:
            await guard(request)
        if request.scope["query_string"]:
            refuse_unknown_query(request, frozenset())
        arguments = {name: request.path_params[name] for name in self._path_parameters}
        if self._model is not None:
            arguments["body"] = await read_json(self._model, request)
        answer = await self.endpoint(request, **arguments)
        if self._is_tagged:
            return answer_conditionally(request, answer)
        return Response(answer.model_dump_json(), media_type="application/json")
