"""Types of times and whole numbers that come from outside, read as their JSON Schema describes them."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import AfterValidator, AwareDatetime, BeforeValidator, StrictInt
from pydantic_core import PydanticCustomError

_DATE_AND_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ]", re.ASCII)


def _as_text(value: Any) -> Any:
    """Return `value` if it is a datetime or begins as RFC 3339 text does, of which Pydantic then reads the rest; raise
    PydanticCustomError otherwise. Pydantic alone also takes seconds since 1970, which `format: date-time` does not
    promise."""
    if isinstance(value, datetime) or (isinstance(value, str) and _DATE_AND_TIME.match(value)):
        return value
    raise PydanticCustomError("time_format", "must be a time as RFC 3339 writes it, with its offset from UTC")


def _in_utc(moment: datetime) -> datetime:
    """Convert a time to UTC. On the first and the last day of the calendar some hours have no UTC time that Python or
    Postgres can hold; for these it raises PydanticCustomError."""
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise PydanticCustomError("time_out_of_range", "must be between the years 1 and 9999 in UTC") from None


def _integral(value: Any) -> Any:
    """Return a float like 219.0 as an integer, and anything else unchanged: 219.0 is an integer to JSON Schema, and
    some languages write every number like that."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Moment = Annotated[AwareDatetime, BeforeValidator(_as_text), AfterValidator(_in_utc)]
WholeNumber = Annotated[StrictInt, BeforeValidator(_integral)]
