"""The sandbox as a FastAPI application."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.sandbox.errors import SandboxError, sandbox_error_response
from services.sandbox.routers import (
    clerk,
    control,
    github,
    globex,
    google,
    microsoft,
    oidc,
    oidc_control,
    pages,
    sign_in,
    slack,
)
from services.sandbox.state import Sandbox


def create_app(sandbox: Sandbox) -> FastAPI:
    """Return the application that serves a sandbox. The caller keeps the sandbox and may inspect it at any time; when
    the application shuts down, it closes the sandbox's ledger file."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        sandbox.close()

    app = FastAPI(title="Sandbox", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.state.sandbox = sandbox
    app.add_exception_handler(SandboxError, sandbox_error_response)
    for module in (control, pages, clerk, sign_in, oidc, google, microsoft, github, slack, globex):
        app.include_router(module.router)
    app.include_router(oidc_control.router, prefix="/oidc/{kind}/_control")
    app.include_router(oidc_control.router, prefix="/as/_control/{kind}", include_in_schema=False)
    return app
