"""Adds to each operation of the OpenAPI document the refusals (error responses) that it can return. They follow from
the errors that its endpoint and dependencies declare with `raises`, and from whether it takes a body."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, Final

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.routing import RouteContext, iter_route_contexts

from services.user_management.exceptions import (
    MALFORMED_IN_OAUTH,
    ApplicationError,
    BadRequestError,
    BodyTooLargeError,
    InvalidJSONError,
    TokenExchangeError,
    UnsupportedMediaTypeError,
    ValidationFailedError,
)
from services.user_management.schemas.problem import OAuthError, Problem

_ANYWHERE: Final = (BadRequestError, BodyTooLargeError, ValidationFailedError, ApplicationError)
"""Errors that every operation can answer with: any request may be malformed HTTP, announce too large a body, have an
unknown parameter, or run into a fault of ours."""
_OF_BODIES: Final = (InvalidJSONError, UnsupportedMediaTypeError)
_PROBLEM: Final = "application/problem+json"
_HEADERS: Final = {
    401: {"WWW-Authenticate": {"description": "How to authenticate", "schema": {"type": "string"}}},
    429: {"Retry-After": {"description": "Seconds", "required": True, "schema": {"type": "string"}}},
    503: {"Retry-After": {"description": "Seconds", "required": True, "schema": {"type": "string"}}},
}

Errors = set[type[ApplicationError]]


def with_refusals(document: dict[str, Any], app: FastAPI) -> dict[str, Any]:
    """Add to each operation of `document` the error statuses that it can return, each with its error codes, and return
    the same object. A token exchange gets the statuses only, since its errors have OAuth's form."""
    components = document.setdefault("components", {})
    schemas, shared = components.setdefault("schemas", {}), components.setdefault("responses", {})
    schemas["Problem"], schemas["OAuthError"] = Problem.model_json_schema(), OAuthError.model_json_schema()
    for route in iter_route_contexts(app.routes):
        for method in route.methods or ():
            operation = document["paths"].get(route.path_format, {}).get(method.lower())
            if operation is not None:
                _list_refusals(operation, _errors_of(route), shared)
    return document


def _list_refusals(operation: dict[str, Any], errors: Errors, shared: dict[str, Any]) -> None:
    responses = operation["responses"]
    if TokenExchangeError in errors:
        responses |= _oauth_refusals(errors)
        return
    # FastAPI lists its own 422, which is not what is sent.
    responses.pop("422", None)
    for status, codes in sorted(_by_status(errors).items()):
        name = ".".join(codes)
        if str(status) not in responses:
            shared[name] = _problem_response(status, codes)
            responses[str(status)] = {"$ref": f"#/components/responses/{name}"}


def _errors_of(route: RouteContext) -> Errors:
    of_bodies = _OF_BODIES if route.body_field is not None else ()
    return {*_ANYWHERE, *of_bodies, *_declared(route.dependant)}


def _declared(dependant: Dependant) -> Iterator[type[ApplicationError]]:
    """Yield the errors that the endpoint and its dependencies, at any depth, declare with `raises`."""
    yield from getattr(dependant.call, "raises", ())
    for dependency in dependant.dependencies:
        yield from _declared(dependency)


def _by_status(errors: Errors) -> dict[int, list[str]]:
    codes = defaultdict(list)
    for error in sorted(errors, key=lambda error: error.code):
        codes[error.status].append(error.code)
    return codes


def _problem_response(status: int, codes: list[str]) -> dict[str, Any]:
    schema = {"allOf": [{"$ref": "#/components/schemas/Problem"}], "properties": {"type": {"enum": codes}}}
    described = " or ".join(f"`{code}`" for code in codes)
    headers = {"headers": _HEADERS[status]} if status in _HEADERS else {}
    return {"description": f"A problem (RFC 9457): {described}", "content": {_PROBLEM: {"schema": schema}}, **headers}


def _oauth_refusals(errors: Errors) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/OAuthError"}
    statuses = sorted({400 if status in MALFORMED_IN_OAUTH else status for status in _by_status(errors)})
    return {
        str(status): {
            "description": "A refusal of OAuth (RFC 6749 section 5.2)",
            "content": {"application/json": {"schema": schema}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status in statuses
    }
