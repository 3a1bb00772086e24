"""The ledger: every call to or from a party (Clerk or a provider) and how it ended, in order, for tests to check; and
the fingerprints by which it names tokens."""

import asyncio
import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TextIO


def fingerprint(token: str | None) -> str | None:
    """Return the first 16 hex digits of a token's SHA-256: enough to compare tokens, and of no use as a token. `None`
    stays `None`."""
    return None if token is None else hashlib.sha256(token.encode()).hexdigest()[:16]


@dataclass(slots=True, kw_only=True)
class Entry:
    """One call. The entry is in the ledger from the call's start (`state` "started"), so that a test can wait until a
    call is under way."""

    seq: int
    party: str
    operation: str
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat())
    monotonic: float = field(default_factory=time.monotonic)
    state: Literal["started", "finished"] = "started"
    client: str | None = None
    account: str | None = None
    refresh_token: str | None = None
    """Fingerprint of the refresh token that was presented."""
    issued_refresh_token: str | None = None
    """Fingerprint of the refresh token in the answer."""
    committed: bool = False
    """Whether the provider has carried out the change; a fault may still hide the answer."""
    fault: str | None = None
    status: int | None = None
    """HTTP status of the answer; `None` until there is one, and if the connection failed or was reset before it."""
    error: str | None = None
    duration_ms: float | None = None
    note: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Return all fields, ready for `json.dumps`."""
        return asdict(self)


class Ledger:
    """Entries in memory and, if `file` is given, as JSON lines appended to it: one for each change of an entry, so that
    the last line with a `seq` has that entry's latest state."""

    def __init__(self, file: Path | None = None) -> None:
        self._entries: list[Entry] = []
        self._next_seq = 1
        self._changed = asyncio.Event()
        self._file: TextIO | None = file.open("a", encoding="utf-8") if file else None

    def start(self, party: str, operation: str, **known: Any) -> Entry:
        """Record the start of a call, and return its entry. `known` are further `Entry` fields."""
        entry = Entry(seq=self._next_seq, party=party, operation=operation, **known)
        self._next_seq += 1
        self._entries.append(entry)
        self.update(entry)
        return entry

    def update(self, entry: Entry) -> None:
        """Write an entry's present state to the file, and wake everything that waits in `wait_for`."""
        if self._file is not None:
            self._file.write(json.dumps(entry.as_json()) + "\n")
            self._file.flush()
        self._changed.set()
        self._changed = asyncio.Event()

    def finish(self, entry: Entry, *, status: int | None) -> None:
        """Record the end of a call; `status` is `None` if the connection failed or was reset before the answer."""
        entry.status = status
        entry.state = "finished"
        entry.duration_ms = round((time.monotonic() - entry.monotonic) * 1000, 3)
        self.update(entry)

    def entries(self, party: str | None = None, operation: str | None = None, **fields: Any) -> list[Entry]:
        """Return the entries that match, oldest first. `fields` are further `Entry` fields, e.g. `status=200`."""
        wanted = {key: value for key, value in (("party", party), ("operation", operation)) if value} | fields
        return [
            entry for entry in self._entries if all(getattr(entry, name) == value for name, value in wanted.items())
        ]

    def count(self, party: str | None = None, operation: str | None = None, **fields: Any) -> int:
        """Return how many entries match, as in `entries`."""
        return len(self.entries(party, operation, **fields))

    async def wait_for(
        self, party: str, operation: str, *, at_least: int = 1, timeout_seconds: float = 5.0, **fields: Any
    ) -> list[Entry]:
        """Wait until `at_least` entries match, as in `entries`, and return all that match. Raises `TimeoutError` after
        `timeout_seconds`."""
        async with asyncio.timeout(timeout_seconds):
            while len(found := self.entries(party, operation, **fields)) < at_least:
                await self._changed.wait()
        return found

    def clear(self) -> None:
        """Forget the entries; `seq` goes on counting and the file keeps its lines."""
        self._entries.clear()

    def close(self) -> None:
        """Close the file, if there is one; later changes are kept in memory only."""
        if self._file is not None:
            self._file.close()
            self._file = None
