"""What routers are given."""

from typing import Annotated, cast

from fastapi import Depends, Request

from services.user_management.container import Container


def get_container(request: Request) -> Container:
    """The object graph of this process."""
    return cast("Container", request.app.state.container)


ContainerDependency = Annotated[Container, Depends(get_container)]
