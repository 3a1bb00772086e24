"""A stand-in for a process of the service: `python fake_service.py web|worker|stubborn|crash|cli …`."""

import http.server
import os
import signal
import sys
import time
from pathlib import Path


class _Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 404)
        self.end_headers()


def web() -> None:
    """Answer GET /ready with 200, and other paths with 404."""
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), _Ready).serve_forever()


def worker() -> None:
    """Fork a child that outlives its parent unless somebody kills it, report the start, and wait."""
    if os.fork() != 0:
        print("worker.started", flush=True)
    time.sleep(600)


def stubborn() -> None:
    """Ignore SIGTERM, and wait."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)


def crash() -> None:
    """End with an error after one second, when everything is running."""
    time.sleep(1)
    sys.exit("out of cheese")


def cli() -> None:
    """Append the arguments to the file that the variable FAKE_CLI_LOG names; for `service create`, print a key."""
    with Path(os.environ["FAKE_CLI_LOG"]).open("a") as log:
        log.write(" ".join(sys.argv[2:]) + "\n")
    if sys.argv[2:4] == ["service", "create"]:
        print("ums_1_fake", flush=True)
        print("keep it", file=sys.stderr)


if __name__ == "__main__":
    {"web": web, "worker": worker, "stubborn": stubborn, "crash": crash, "cli": cli}[sys.argv[1]]()
