"""The driver's own record: every request, and what became of it, one line of JSON each, written as it happens."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TextIO

DRIVER_FILE: Final = "driver.jsonl"
PROVIDER_FILE: Final = "sandbox.jsonl"
"""The provider's own record, beside it."""


def fingerprint(token: str) -> str:
    """The first 16 hex digits of SHA-256, as the sandbox's ledger has it: tells tokens apart and is not one."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking the service for a token, and of using it at the provider in the same moment."""

    status: int | None
    """None: no answer came, see `error`."""
    code: str | None = None
    """Of the problem, where it is one."""
    reason: str | None = None
    retry_after: float | None = None
    refreshed: bool = False
    token: str | None = None
    """Its fingerprint."""
    accepted: bool | None = None
    """Whether the provider took the token; None: there was none."""
    error: str | None = None

    @property
    def works(self) -> bool:
        """A token was handed out, and it is good."""
        return self.status == 200 and self.accepted is True


class Ledger:
    """A file that only grows; with the token answers in memory too, for the verdict."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[Answer] = []
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._number = 0

    def note(self, event: str, **fields: Any) -> None:
        """Write one line."""
        line = {"at": datetime.now(UTC).isoformat(), "event": event, **fields}
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()

    def asked(self, **fields: Any) -> int:
        """A request goes out; its number."""
        self._number += 1
        self.note("asked", number=self._number, **fields)
        return self._number

    def answered(self, number: int, answer: Answer) -> None:
        """It was answered, or will never be."""
        self.answers.append(answer)
        self.note("answered", number=number, **asdict(answer))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def refused_by_provider(self) -> int:
        """Tokens that were handed out and that the provider did not take."""
        return sum(answer.status == 200 and not answer.accepted for answer in self.answers)

    def handed_out(self) -> int:
        """Tokens that were handed out."""
        return sum(answer.status == 200 for answer in self.answers)


@contextmanager
def ledger_in(folder: Path) -> Iterator[Ledger]:
    """A ledger in `folder`, closed at the end."""
    ledger = Ledger(folder / DRIVER_FILE)
    try:
        yield ledger
    finally:
        ledger.close()
