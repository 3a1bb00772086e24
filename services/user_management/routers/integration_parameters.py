"""Path and query parameters that name an integration, the same on every route. They accept only values that Postgres
can store."""

from typing import Annotated

from fastapi import Path, Query

from services.user_management.utils.validators import PlainLine, ProviderName

ProviderPath = Annotated[ProviderName, Path(description="Name of the provider")]
"""Path parameter that names a provider. A text that cannot be a name is refused with 422; whether the provider is
configured is not checked here, but where it is used."""
AccountQuery = Annotated[
    Annotated[str, PlainLine(320)] | None, Query(description="Account id at the provider, or its e-mail address")
]
"""Query parameter that names an account at the provider. Without it, the primary integration is meant."""
