"""The ledger of the chaos run's driver: a line of JSON for every request for a token, for every answer, and for
failures that the driver caused, such as a kill, each written as it happens."""

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
"""File of the sandbox's record of calls to the providers, in the same folder."""


def fingerprint(token: str) -> str:
    """Return the first 16 hex digits of the token's SHA-256, as the sandbox's ledger has them: enough to tell tokens
    apart, and useless as a token."""
    return hashlib.sha256(token.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Answer:
    """Outcome of asking the service for a token, and of using the token at the provider right afterwards."""

    status: int | None
    """HTTP status of the service's answer; None if no answer came, see `error`."""
    code: str | None = None
    """The `type` of the problem document, or the code of the token client's error; None if there is neither."""
    reason: str | None = None
    retry_after: float | None = None
    """Seconds, from the answer's Retry-After; None if it has none."""
    refreshed: bool = False
    token: str | None = None
    """Fingerprint of the token; None if there was none."""
    accepted: bool | None = None
    """Whether the provider took the token; None if there was no token."""
    error: str | None = None

    @property
    def works(self) -> bool:
        """Whether a token was handed out and the provider took it."""
        return self.status == 200 and self.accepted is True


class Ledger:
    """A file to which lines are only appended; answers are kept in memory too, to be counted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answers: list[Answer] = []
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._number = 0

    def note(self, event: str, **fields: Any) -> None:
        """Write one line: the time, the event and its fields."""
        line = {"at": datetime.now(UTC).isoformat(), "event": event, **fields}
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()

    def asked(self, **fields: Any) -> int:
        """Write that a request goes out, and return its number."""
        self._number += 1
        self.note("asked", number=self._number, **fields)
        return self._number

    def answered(self, number: int, answer: Answer) -> None:
        """Write and remember the answer to the request `number`; one without a status records that none came."""
        self.answers.append(answer)
        self.note("answered", number=number, **asdict(answer))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def refused_by_provider(self) -> int:
        """Count the tokens that were handed out and that the provider did not accept."""
        return sum(answer.status == 200 and not answer.accepted for answer in self.answers)

    def handed_out(self) -> int:
        """Count the tokens that were handed out."""
        return sum(answer.status == 200 for answer in self.answers)


@contextmanager
def ledger_in(folder: Path) -> Iterator[Ledger]:
    """Provide a ledger in `folder`, closed at the end of the block. An existing file is appended to."""
    ledger = Ledger(folder / DRIVER_FILE)
    try:
        yield ledger
    finally:
        ledger.close()
