"""Lists the routes that the application really has, for tests that must not miss one."""

from collections.abc import Iterator

from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.routing import Route

from services.user_management.auth.guards import anonymous, public

DOCUMENTATION = {"GET /docs", "GET /docs/oauth2-redirect", "GET /openapi.json"}


def _flattened(app: FastAPI) -> Iterator[Route]:
    """Yield all routes of `app`. FastAPI keeps included routers as they are, so their routes are found behind
    `original_router`."""
    for route in app.routes:
        included = getattr(route, "original_router", None)
        yield from (one for one in (included.routes if included is not None else [route]) if isinstance(one, Route))


def all_routes(app: FastAPI) -> set[str]:
    """Return every `METHOD /path`, shown in the schema or not, without HEAD and without the documentation's routes."""
    named = {
        f"{method} {route.path}" for route in _flattened(app) for method in route.methods or () if method != "HEAD"
    }
    return named - DOCUMENTATION


def documented_routes(app: FastAPI) -> set[str]:
    """Return every `METHOD /path` of the OpenAPI document."""
    return {f"{method.upper()} {path}" for path, item in app.openapi()["paths"].items() for method in item}


def public_routes(app: FastAPI) -> set[str]:
    """Return every `METHOD /path` whose guard lets anybody pass."""
    return {
        f"{method} {route.path}"
        for route in _flattened(app)
        if isinstance(route, APIRoute) and any(guard.dependency in {public, anonymous} for guard in route.dependencies)
        for method in route.methods or ()
    }
