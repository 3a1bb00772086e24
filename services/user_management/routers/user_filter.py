"""The query parameters that users are found by."""

from typing import Annotated

from fastapi import Depends, Query

from services.user_management.enums import UserStatus
from services.user_management.queries.user_search import UserFilter
from services.user_management.utils.scalars import Moment
from services.user_management.utils.validators import PlainLine, normalize_email, search_key


async def user_filter(
    q: Annotated[
        Annotated[str, PlainLine(200)] | None, Query(description="Beginning of the e-mail, first name or last name")
    ] = None,
    status: UserStatus | None = None,
    created_after: Annotated[Moment | None, Query(description="From this time on")] = None,
    created_before: Annotated[Moment | None, Query(description="Up to this time, exclusive")] = None,
) -> UserFilter:
    """What is wanted. Names are compared without case and accents."""
    return UserFilter(
        email_prefix=normalize_email(q) if q else None,
        # No name has an @, as long as people type addresses; and accents alone are no beginning of a name.
        name_prefix=(search_key(q) or None) if q and "@" not in q else None,
        status=status.value if status else None,
        created_after=created_after,
        created_before=created_before,
    )


UserFilterQuery = Annotated[UserFilter, Depends(user_filter)]
# It holds a search key: up to 320 characters, and JSON writes some of them as twelve.
Cursor = Annotated[str | None, Query(max_length=8192)]
