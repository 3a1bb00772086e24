"""Path and query parameters that name an integration, alike on every route. Postgres takes every value that they
accept."""

from typing import Annotated

from fastapi import Path, Query

from services.user_management.utils.validators import PlainLine, ProviderName

ProviderPath = Annotated[ProviderName, Path(description="Name of the provider")]
"""Path parameter that names a provider. A text that cannot be a name is refused with 422; the service refuses a name
that is not configured."""
AccountQuery = Annotated[
    Annotated[str, PlainLine(320)] | None, Query(description="Account id at the provider, or its e-mail address")
]
"""Query parameter that names an account at the provider. Without it, the primary integration is meant."""
