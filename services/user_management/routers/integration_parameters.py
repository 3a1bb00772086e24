"""Path and query parameters that name an integration, the same on every route. They accept only values that Postgres
can store."""

from typing import Annotated

from fastapi import Path, Query

from services.user_management.utils.validators import PlainLine, ProviderName

ProviderPath = Annotated[ProviderName, Path(description="Name of the provider")]
"""Path parameter that names a provider. A text that cannot be a name is refused with 422. Whether the provider is
configured is checked later, by the use case."""
AccountQuery = Annotated[
    Annotated[str, PlainLine(320)] | None, Query(description="Account id at the provider, or its e-mail address")
]
"""Query parameter that names an account at the provider. Without it, the request concerns the primary integration."""
