"""Dependencies that give routers and guards the container, the object graph of the process."""

from typing import Annotated, cast

from fastapi import Depends, Request

from services.user_management.container import Container


def get_container(request: Request) -> Container:
    """Return the object graph of this process."""
    return cast("Container", request.app.state.container)


async def _container(request: Request) -> Container:
    # FastAPI runs a dependency that is no coroutine in a thread.
    return get_container(request)


ContainerDependency = Annotated[Container, Depends(_container)]
