"""Fuzz target: a cursor is accepted only if it holds a position that we have signed."""

from typing import Any, Final

from services.user_management.exceptions import ValidationFailedError
from services.user_management.security.signing import Signer

_SIGNER: Final = Signer(["a secret of the fuzzing"])
_SCOPE: Final = "activity"
_MADE: Final[tuple[list[Any], ...]] = ([], ["2026-11-20T14:00:00Z", "0199"], [1, None])


def seeds() -> list[bytes]:
    """Return cursors signed for the list that `fuzz_one` reads, and one signed for another list."""
    made = [_SIGNER.encode_cursor(_SCOPE, position) for position in _MADE]
    return [cursor.encode() for cursor in (*made, _SIGNER.encode_cursor("another list", _MADE[1]))]


def fuzz_one(data: bytes) -> None:
    """Decode `data` as a cursor, as the query string delivers it. Raises AssertionError if it is accepted and holds a
    position that `seeds` did not sign."""
    text = data.decode("utf-8", "replace")
    try:
        position = _SIGNER.decode_cursor(_SCOPE, text)
    except ValidationFailedError:
        return
    assert position in _MADE, "a position that we did not sign"
