"""The sandbox as a FastAPI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.sandbox import control_routes, page_routes
from services.sandbox.clerk import routes as clerk_routes
from services.sandbox.clerk import sign_in_routes
from services.sandbox.errors import SandboxError, sandbox_error_response
from services.sandbox.oidc import consent_routes
from services.sandbox.oidc import control_routes as provider_control_routes
from services.sandbox.oidc import routes as provider_routes
from services.sandbox.state import Sandbox


def create_app(sandbox: Sandbox) -> FastAPI:
    """The application over a sandbox; the caller keeps the sandbox and may look into it at any time."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        sandbox.close()

    app = FastAPI(title="Sandbox", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.sandbox = sandbox
    app.add_exception_handler(SandboxError, sandbox_error_response)
    for module in (
        control_routes,
        page_routes,
        clerk_routes,
        sign_in_routes,
        consent_routes,
        provider_control_routes,
        provider_routes,
    ):
        app.include_router(module.router)
    return app
