"""How a path and a query name a connection, on every route alike: what passes can be asked of Postgres."""

from typing import Annotated

from fastapi import Path, Query

from services.user_management.utils.validators import PlainLine, ProviderName

ProviderPath = Annotated[ProviderName, Path(description="Name of the provider")]
"""What is not a name is 422; a name that is not configured is the service's to refuse."""
AccountQuery = Annotated[
    Annotated[str, PlainLine(320)] | None, Query(description="Account id at the provider, or its e-mail address")
]
"""Default: the primary connection."""
