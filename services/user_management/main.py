"""Builds the API as an ASGI application, and runs it as the process `web`."""

import asyncio
import gc
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import FrameType
from typing import Any, Final

import uvicorn
import uvloop
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.middleware import Middleware

from services.user_management.container import DRAIN_SECONDS, Container
from services.user_management.core.core_dumps import forbid_core_dumps
from services.user_management.exceptions import StartupError
from services.user_management.http_protocol import LimitedHttpProtocol
from services.user_management.logging_config import configure_logging
from services.user_management.middleware.body_limit import BodyLimitMiddleware
from services.user_management.middleware.browser_cors import BrowserCORSMiddleware
from services.user_management.middleware.prefix import PrefixMiddleware
from services.user_management.middleware.problems import HANDLERS
from services.user_management.middleware.request_context import RequestContextMiddleware
from services.user_management.routers import (
    admin_services,
    admin_users,
    health,
    integration_diagnosis,
    integrations,
    internal,
    token_exchange,
    users,
    webhook_subscriptions,
    webhooks,
)
from services.user_management.routers.direct_route import DirectRoute
from services.user_management.routers.events import with_events
from services.user_management.routers.examples import with_examples
from services.user_management.routers.refusals import with_refusals
from services.user_management.settings import Settings, get_settings

# Routes are tried in this order: the hot ones first, and fixed paths (`/users/search`) before the templates that would
# take them for an id.
ROUTERS: Final = (
    internal.hot_router,
    users.search_router,
    users.hot_router,
    users.router,
    health.router,
    integrations.router,
    integration_diagnosis.router,
    integration_diagnosis.admin_router,
    webhooks.router,
    internal.router,
    token_exchange.router,
    admin_users.deleted_router,
    admin_users.router,
    admin_services.router,
    webhook_subscriptions.router,
)


def create_app(settings: Settings, container: Container | None = None) -> FastAPI:
    """Build the ASGI application. At its startup it builds and starts a container, unless it was given `container`,
    which must be started already; at its shutdown it stops the container in either case."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        graph = container
        if graph is None:
            graph = Container(settings)
            await graph.start()
        app.state.container = graph
        watches = (graph.operations.health.watch(), graph.identity.signing_keys.keep_fresh())
        watchers = [asyncio.create_task(watch) for watch in watches]
        try:
            yield
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)
            await graph.stop()

    app = FastAPI(
        title="User management service",
        description="Users, their preferences, and the OAuth tokens their other services need.",
        version="1",
        contact={"name": "Operators of the user management service"},
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        openapi_url="/openapi.json" if settings.serves_docs else None,  # None: no /docs either
        redoc_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
        # The service writes its own logs and metrics, without bodies. FastAPI must not send any to exporters that the
        # process's environment names.
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
        middleware=_middleware(settings),
    )
    for router in ROUTERS:
        if router.route_class is DirectRoute:
            app.router.routes.extend(router.routes)
        else:
            app.include_router(router)
    _complete_schema(app)
    return app


def _middleware(settings: Settings) -> list[Middleware]:
    """Return the middleware, the outermost first."""
    return [
        # Outermost, so that a browser may also read the problems that the next layer makes of a crash or an outage.
        Middleware(
            BrowserCORSMiddleware,
            allow_origins=settings.frontend.origins,
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "If-Match", "If-None-Match", "X-Request-ID"],
            expose_headers=["ETag", "Location", "RateLimit", "RateLimit-Policy", "Retry-After", "X-Request-ID"],
            max_age=600,
        ),
        Middleware(
            RequestContextMiddleware,
            strict_transport=settings.is_production,
            trusted_networks=settings.proxy.trusted_networks,
        ),
        Middleware(BodyLimitMiddleware),
        Middleware(PrefixMiddleware),
    ]


def _operation_id(route: APIRoute) -> str:
    """Return the endpoint's name as the operation's id: generated clients name their methods after it, and it is
    stable."""
    return route.name


def _complete_schema(app: FastAPI) -> None:
    """Add to the OpenAPI document what the routes' signatures do not say: refusals, examples, webhooks."""
    build: Callable[[], dict[str, Any]] = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = with_examples(with_events(with_refusals(build(), app)))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend the schema


class DrainingServer(uvicorn.Server):
    """A uvicorn server that, after SIGTERM, answers the readiness probe with "draining" for `delay_seconds`, so that a
    load balancer sends no more requests, and only then closes its listener. uvicorn itself would close it at once."""

    def __init__(self, config: uvicorn.Config, container: Container, delay_seconds: float) -> None:
        super().__init__(config)
        self._container = container
        self._delay_seconds = delay_seconds

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's signature
        """Handle a signal: the first one begins the shutdown (for SIGTERM after the delay, for others at once), a
        second one ends the server without waiting for open requests."""
        loop = asyncio.get_running_loop()
        if self._container.is_draining:
            self.should_exit = self.force_exit = True
            return
        self._container.drain()
        delay = self._delay_seconds if sig == signal.SIGTERM else 0.0
        loop.call_soon_threadsafe(loop.call_later, delay, self._close_listener)

    def _close_listener(self) -> None:
        self.should_exit = True


def _spare_the_collector() -> None:
    """Exclude the objects that live as long as the process (graph, routes, modules) from garbage collection, and let a
    collection begin only after 10,000 net allocations, not 700. Measured: saves a sixth of the CPU of a token read,
    halves its p99."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


async def serve(settings: Settings) -> None:
    """Run the API until SIGTERM or SIGINT. Raises StartupError if the process must not start."""
    container = Container(settings)
    await container.start()
    config = uvicorn.Config(
        create_app(settings, container),
        host=settings.host,
        port=settings.port,
        http=LimitedHttpProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=DRAIN_SECONDS - settings.drain.delay_seconds,  # type: ignore[arg-type]  # any number
    )
    server = DrainingServer(config, container, settings.drain.delay_seconds)
    _spare_the_collector()
    await server.serve()


def main() -> None:
    """Run the process `web`. Exits with status 2 when it must not start."""
    forbid_core_dumps()
    try:
        settings = get_settings()
        configure_logging(level=settings.log.level, json_lines=settings.log_json_lines)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings))
    except StartupError as error:
        print(f"user-management: {error}", file=sys.stderr)  # noqa: T201 - for the person who starts it
        sys.exit(2)


def __getattr__(name: str) -> Any:
    """Build `app` on demand, for ASGI servers that import it (`uvicorn services.user_management.main:app`)."""
    if name == "app":
        return create_app(get_settings())
    raise AttributeError(name)


if __name__ == "__main__":
    main()
