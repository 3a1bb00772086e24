"""Servers on this machine that wrap and unwrap the vault's secrets: moto's KMS, an imitated transit engine, and a real
one if OpenBao or Vault is installed."""

import base64
import json
import os
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx

from services.devstack import ports, process
from services.devstack.child import Child

TOKEN: Final = "s.a-token-for-tests"
KEY: Final = "user-management"
START_SECONDS: Final = 30.0


def _until_it_answers(child: Child, url: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if child.returncode is not None:
            raise RuntimeError(f"the server ended: {child.returncode}")
        try:
            httpx.get(url, trust_env=False, timeout=2)
        except httpx.TransportError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError(url)


@contextmanager
def moto_server(log: Path) -> Iterator[str]:
    """Run moto's imitation of AWS within the block, and yield its URL. It has no KMS key until one is created."""
    (port,) = ports.free_ports(1)
    url = f"http://{ports.LOOPBACK}:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", ports.LOOPBACK, "-p", str(port)]
    with log.open("wb") as output:
        child = process.spawn(command, env=dict(os.environ), cwd=log.parent, streams=process.Streams(stdout=output))
    try:
        _until_it_answers(child, f"{url}/moto-api/")
        yield url
    finally:
        child.kill()


class FakeTransit(ThreadingHTTPServer):
    """An imitation of the transit engine. It does not encrypt: a wrapped text is only a name for the secret that it
    keeps. The next `failures_left` requests are answered with 503; after them, `answer`, if it is set, is the answer to
    every request."""

    def __init__(self) -> None:
        super().__init__((ports.LOOPBACK, 0), _TransitHandler)
        self.wrapped: dict[str, tuple[str, str]] = {}
        """Text → (base64 of the secret, associated data)."""
        self.answer: tuple[int, bytes] | None = None
        self.failures_left = 0
        self.requests: list[tuple[str, dict[str, Any]]] = []

    @property
    def url(self) -> str:
        return f"http://{ports.LOOPBACK}:{self.server_port}"

    def handle_call(self, path: str, token: str | None, body: dict[str, str]) -> tuple[int, bytes]:
        """Record a request, and return status and body of its answer."""
        self.requests.append((path, body))
        if self.failures_left:
            self.failures_left -= 1
            return 503, b'{"errors":["Vault is sealed"]}'
        if self.answer is not None:
            return self.answer
        if token != TOKEN:
            return 403, b'{"errors":["permission denied"]}'
        if path == f"/v1/transit/encrypt/{KEY}":
            text = f"vault:v1:{secrets.token_urlsafe(24)}"
            self.wrapped[text] = body["plaintext"], body["associated_data"]
            return 200, json.dumps({"data": {"ciphertext": text}}).encode()
        if path == f"/v1/transit/decrypt/{KEY}":
            plaintext, associated = self.wrapped.get(body["ciphertext"], ("", ""))
            if not associated or associated != body["associated_data"]:
                return 400, b'{"errors":["cipher: message authentication failed"]}'
            return 200, json.dumps({"data": {"plaintext": plaintext}}).encode()
        return 404, b'{"errors":[]}'

    def wrap_as_is(self, secret: bytes, version: int) -> str:
        """Wrap a secret of any length, as another client of the engine could, and return the wrapped text."""
        text = f"vault:v1:{secrets.token_urlsafe(24)}"
        associated = base64.b64encode(f"user-management:{version}".encode()).decode()
        self.wrapped[text] = base64.b64encode(secret).decode(), associated
        return text


class _TransitHandler(BaseHTTPRequestHandler):
    server: FakeTransit

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, answer = self.server.handle_call(self.path, self.headers["X-Vault-Token"], body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the name that http.server passes
        """Log nothing."""


@contextmanager
def fake_transit() -> Iterator[FakeTransit]:
    """Within the block, run an imitation of the transit engine."""
    server = FakeTransit()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def transit_binary() -> str | None:
    """Return the path of OpenBao or Vault; None if neither is on the PATH."""
    return shutil.which("bao") or shutil.which("vault")


@contextmanager
def real_transit(binary: str, log: Path) -> Iterator[str]:
    """Run an in-memory development server of OpenBao or Vault with the transit engine and our key within the block, and
    yield its URL."""
    (port,) = ports.free_ports(1)
    url = f"http://{ports.LOOPBACK}:{port}"
    command = [
        binary, "server", "-dev", f"-dev-root-token-id={TOKEN}", f"-dev-listen-address={ports.LOOPBACK}:{port}"
    ]  # fmt: skip
    environment = {"PATH": os.defpath, "HOME": str(log.parent)}
    with log.open("wb") as output:
        child = process.spawn(command, env=environment, cwd=log.parent, streams=process.Streams(stdout=output))
    try:
        _until_it_answers(child, f"{url}/v1/sys/health")
        with httpx.Client(base_url=url, headers={"X-Vault-Token": TOKEN}, trust_env=False) as client:
            client.post("/v1/sys/mounts/transit", json={"type": "transit"}).raise_for_status()
            client.post(f"/v1/transit/keys/{KEY}", json={}).raise_for_status()
        yield url
    finally:
        child.kill()
