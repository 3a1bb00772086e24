"""A started command of the stack. Its output goes to its log and, if wanted, also to the developer's terminal, with
its name before each line."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO

from services.devstack import process
from services.devstack.plan import Service

REPOSITORY = Path(__file__).resolve().parents[2]
_NAME_WIDTH = 8
_LONGEST_LINE = 64 * 1024
_OUTPUT_GRACE = 1.0  # seconds between the end of a process and the end of what it printed


def echo_to_person(name: str, line: bytes) -> None:
    """Write `NAME | line` to the stderr of this process, the keeper, which the front (the process that the developer
    started) connected with its own stdout."""
    with suppress(OSError):  # nobody reads any more; the log still has the line
        os.write(sys.stderr.fileno(), f"{name:<{_NAME_WIDTH}}| ".encode() + line + b"\n")


class RunningService:
    """A process of the stack, from its start to its end."""

    def __init__(
        self,
        service: Service,
        *,
        environment: Mapping[str, str],
        log_path: Path,
        echo: Callable[[str, bytes], None] | None,
        keep_stdout: bool = False,
    ) -> None:
        """Start the service. With `keep_stdout`, its stdout is neither shown nor logged; `answer()` returns it."""
        self.service = service
        self.last_line = ""
        self.said_ready = threading.Event()
        self._echo = echo
        self._log_path = log_path
        self.child = process.spawn(
            service.command,
            env={**environment, **service.environment},
            cwd=REPOSITORY,
            streams=process.Streams(
                stdout=subprocess.PIPE, stderr=subprocess.PIPE if keep_stdout else subprocess.STDOUT
            ),
        )
        self._reader = threading.Thread(
            target=self._read, args=(self.child.stderr if keep_stdout else self.child.stdout,), daemon=True
        )
        self._reader.start()

    def answer(self) -> str:
        """Wait until the command closes its stdout, and return all that it printed there; needs `keep_stdout`."""
        if self.child.stdout is None:
            return ""
        with self.child.stdout as stdout:
            return stdout.read().decode(errors="replace")

    def how_it_ended(self) -> str:
        """Return how the command ended, for the developer: `exit status 3: last line` or `killed by SIGKILL`."""
        self._reader.join(_OUTPUT_GRACE)
        return process.describe_end(self.child.returncode) + (f": {self.last_line}" if self.last_line else "")

    def _read(self, stream: IO[bytes] | None) -> None:
        if stream is None:
            return
        with stream, self._log_path.open("ab") as log:
            for line in iter(lambda: stream.readline(_LONGEST_LINE), b""):
                log.write(line if line.endswith(b"\n") else line + b"\n")
                log.flush()
                self._notice(line.rstrip(b"\r\n"))

    def _notice(self, line: bytes) -> None:
        text = line.decode(errors="replace")
        if text.strip():
            self.last_line = text.strip()
        if self.service.ready_text and self.service.ready_text in text:
            self.said_ready.set()
        if self._echo:
            self._echo(self.service.name, line)
