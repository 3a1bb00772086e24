"""Routes for liveness, readiness and metrics."""

from fastapi import APIRouter, Depends, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST

from services.user_management.auth.dependencies import ContainerDependency
from services.user_management.auth.guards import public
from services.user_management.routers.strict_route import StrictRoute
from services.user_management.schemas.health import HealthResponse, ReadyResponse

router = APIRouter(tags=["health"], route_class=StrictRoute, dependencies=[Depends(public)])


@router.get("/health")
async def get_health(container: ContainerDependency) -> HealthResponse:
    """Return 200 while the process is alive, with the states of Postgres, Redis and the rate limiter as last seen."""
    return container.operations.health.health()


@router.get("/ready", responses={503: {"model": ReadyResponse}})
async def get_readiness(container: ContainerDependency, response: Response) -> ReadyResponse:
    """Return 200 while the process can take traffic, and 503 while it is starting or draining (finishing its last
    requests), or while no database accepts writes."""
    readiness = await container.operations.health.ready()
    response.status_code = 200 if readiness.status == "ready" else 503
    return readiness


@router.get("/metrics", response_class=PlainTextResponse)
async def get_metrics(container: ContainerDependency) -> Response:
    """Return the metrics of this process, and the counters of integrations that all processes share, in Prometheus's
    text format. While Postgres is unavailable, these counters keep the values that were last read, or are left out if
    there are none. Metrics are not for the public: a reverse proxy must not forward this path."""
    return Response(await container.operations.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)
