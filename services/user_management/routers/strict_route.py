"""The route class that refuses unknown and repeated query parameters, the check that it makes, and the mark of routes
that allow unknown ones."""

from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from functools import wraps
from inspect import Parameter, signature
from typing import Annotated, Any, Final

from fastapi import Depends, Request
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from services.user_management.exceptions import ValidationFailedError

ANY_QUERY: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "others",
            "in": "query",
            "required": False,
            "style": "form",
            "explode": True,
            "schema": {"type": "object", "additionalProperties": {"type": "string"}},
            "description": "Whatever else the sender adds is ignored",
        }
    ]
}
"""The `openapi_extra` by which a StrictRoute allows query parameters that we do not know, and documents that. Even
there, each parameter may occur only once."""


def refuse_unknown_query(request: Request, known: frozenset[str] | None) -> None:
    """Check the names of the query parameters. Raises ValidationFailedError for one that is not in `known` (None allows
    any), or that occurs more than once."""
    names = Counter(name for name, _ in request.query_params.multi_items())
    unknown = set() if known is None else set(names) - known
    doubled = {name for name, count in names.items() if count > 1} - unknown
    errors = [
        *(
            {"loc": ("query", name), "msg": "is not a known parameter", "type": "unknown_parameter"}
            for name in sorted(unknown)
        ),
        *({"loc": ("query", name), "msg": "occurs twice", "type": "doubled_parameter"} for name in sorted(doubled)),
    ]
    if errors:
        raise ValidationFailedError.of_fields(errors)


async def _declared_query(request: Request) -> None:
    if request.scope["query_string"]:
        refuse_unknown_query(request, request.scope["route"].known_query)


class StrictRoute(APIRoute):
    """A route that refuses repeated query parameters and, unless its `openapi_extra` is ANY_QUERY, unknown ones. It
    does so after its guards (the dependencies that authenticate the caller) have passed."""

    def __init__(self, path: str, endpoint: Callable[..., Coroutine[Any, Any, Any]], **options: Any) -> None:
        super().__init__(path, _with_declared_query(endpoint), **options)
        any_query = options.get("openapi_extra") is ANY_QUERY
        self.known_query = None if any_query else frozenset(_query_names(self.dependant))


def _query_names(dependant: Dependant) -> Iterator[str]:
    yield from (field.alias for field in dependant.query_params)
    for dependency in dependant.dependencies:
        yield from _query_names(dependency)


def _with_declared_query(endpoint: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    """Return the endpoint with one more dependency, which checks the query. Dependencies run in the order of the
    signature, so this one runs after the guards."""

    @wraps(endpoint)
    async def strict(*, _declared_query: None, **arguments: Any) -> Any:
        return await endpoint(**arguments)

    declared = signature(endpoint, eval_str=True)
    last = Parameter("_declared_query", Parameter.KEYWORD_ONLY, annotation=Annotated[None, Depends(_declared_query)])
    strict.__signature__ = declared.replace(  # type: ignore[attr-defined]  # the documented way (PEP 362)
        parameters=[*declared.parameters.values(), last]
    )
    return strict
