"""An address of Postgres that can be moved to another server, as a virtual IP, a DNS name or a pooler can."""

import asyncio
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from services.devstack.postgres import RUNTIME_ROLE, database_url

SOCKET: Final = ".s.PGSQL.5432"
_READY_FOR_QUERY: Final = b"Z"


class _Line:
    """One connection of a client, whose bytes go to one server at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._client = writer
        self._startup = b""
        self._server: asyncio.StreamWriter | None = None
        self._answers: asyncio.Task[None] | None = None

    async def serve(self, target: Path) -> None:
        """Connect to the server at `target`, and pass all bytes on in both directions until either side hangs up."""
        try:
            size = await self._reader.readexactly(4)
            self._startup = size + await self._reader.readexactly(int.from_bytes(size) - 4)
            await self.lead_to(target, greet=False)
            while (chunk := await self._reader.read(65536)) and self._server is not None:
                self._server.write(chunk)
        except (OSError, EOFError):
            pass  # The server is down or the client has hung up: both sides end.
        finally:
            self.cut()

    async def lead_to(self, target: Path, *, greet: bool) -> None:
        """Connect to a server, and leave the present one if there is one. With `greet`, log in there on behalf of the
        client, which does not notice."""
        if self._answers is not None:
            self._answers.cancel()
        if self._server is not None:
            self._server.close()
        reader, self._server = await asyncio.open_unix_connection(target / SOCKET)
        self._server.write(self._startup)
        while greet:
            kind, size = await reader.readexactly(1), await reader.readexactly(4)
            await reader.readexactly(int.from_bytes(size) - 4)
            greet = kind != _READY_FOR_QUERY
        self._answers = asyncio.create_task(self._carry_answers(reader))

    async def _carry_answers(self, reader: asyncio.StreamReader) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                self._client.write(chunk)
        self._client.close()

    def cut(self) -> None:
        """Hang up on both sides."""
        if self._answers is not None:
            self._answers.cancel()
        for side in (self._client, self._server):
            if side is not None:
                side.close()


class MovingAddress:
    """A socket in `folder` that leads to whichever server it was moved to; runs in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.url = database_url(folder, role=RUNTIME_ROLE)
        self._socket = folder / SOCKET
        self._target: Path | None = None
        self._lines: set[_Line] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._run(asyncio.start_unix_server(self._serve, self._socket))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def move(self, target: Path) -> None:
        """Lead new connections to the server whose socket is in `target`; open ones stay where they are."""
        self._target = target

    def cut(self) -> None:
        """End the open connections."""
        self._run(self._cut())

    def carry_over(self) -> None:
        """Lead the open connections, which must be idle, to the present server too, as a pooler does."""
        self._run(self._carry_over())

    def _run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(reader, writer)
        self._lines.add(line)
        if self._target is not None:
            await line.serve(self._target)
        line.cut()
        self._lines.discard(line)

    async def _cut(self) -> None:
        for line in self._lines:
            line.cut()

    async def _carry_over(self) -> None:
        assert self._target is not None
        for line in list(self._lines):
            await line.lead_to(self._target, greet=True)

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
