"""Query parameters of lists of users: the filter, and the cursor of a page."""

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
    """Build the filter from the query parameters. The search for `q` ignores case, and in names also accents; a `q`
    with an @ is searched among e-mail addresses only."""
    return UserFilter(
        email_prefix=normalize_email(q) if q else None,
        # A text with an @ is treated as an address, not as a name. A text of accents alone is not searched among names.
        name_prefix=(search_key(q) or None) if q and "@" not in q else None,
        status=status.value if status else None,
        created_after=created_after,
        created_before=created_before,
    )


UserFilterQuery = Annotated[UserFilter, Depends(user_filter)]
# A cursor holds a search key of up to 320 characters, and JSON writes some characters as twelve.
Cursor = Annotated[str | None, Query(max_length=8192)]
