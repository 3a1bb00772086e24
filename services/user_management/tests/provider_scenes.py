"""Helpers for tests of the OAuth client alone: built-in providers, a scripted network, and tokens and answers of
providers."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl

import httpx
from pydantic import SecretStr

from services.sandbox.signing import base64url
from services.user_management.http_client import create_http_client
from services.user_management.integrations.oauth_client import OAuthClient, TokenAnswer
from services.user_management.integrations.oauth_config import BUILT_IN, Provider, Registration, load_providers
from services.user_management.tests.clocks import NOW, SetClock
from services.user_management.tests.session_tokens import KEY_ID, PRIVATE_KEY, encoded, signed

CLIENT_ID: Final = "client-1"
CLIENT_SECRET: Final = "secret-1"
REDIRECT_URI: Final = "https://api.example.com/oauth/callback/x"
NONCE: Final = "nonce-1"
ACCESS_TOKEN: Final = "access-1"
GOOGLE_KEYS: Final = "https://www.googleapis.com/oauth2/v3/certs"


Reply = httpx.Response | Exception | Callable[[httpx.Request], httpx.Response]


@dataclass
class Edge:
    """The scripted network. It gives the replies of each URL in their order, and repeats the last one; an exception
    among them is raised. A URL without replies raises KeyError."""

    script: dict[str, list[Reply]] = field(default_factory=dict)
    requests: list[httpx.Request] = field(default_factory=list)

    def answer(self, url: str, *replies: Reply) -> None:
        self.script[url] = list(replies)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        replies = self.script[str(request.url)]
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        if isinstance(reply, Exception):
            raise reply
        return (
            reply(request)
            if callable(reply)
            else httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)
        )

    def calls(self, url: str) -> int:
        return sum(str(request.url) == url for request in self.requests)

    def form(self, index: int = -1) -> dict[str, str]:
        """Return the form that a request has sent, by default the last one."""
        return dict(parse_qsl(self.requests[index].content.decode(), keep_blank_values=True))


def client(edge: Edge, clock: SetClock | None = None) -> OAuthClient:
    return OAuthClient(create_http_client(httpx.MockTransport(edge.handle)), clock or SetClock())


def built_in(name: str, parameters: Mapping[str, str] | None = None, /, **changes: Any) -> Provider:
    """Return a built-in provider with our client. `parameters` are those of its registration, `changes` the values that
    replace some of its file."""
    registration = Registration(CLIENT_ID, SecretStr(CLIENT_SECRET), parameters or {})
    provider = load_providers([BUILT_IN], {name: registration}).get(name)
    return Provider(provider.config.model_copy(update=changes), CLIENT_ID, SecretStr(CLIENT_SECRET))


def body(members: Any, status: int = 200, **headers: str) -> httpx.Response:
    """Build a JSON answer."""
    return httpx.Response(status, headers=headers, content=json.dumps(members).encode())


def key_set() -> dict[str, Any]:
    """Return the JWKS with the one key that signs ID tokens in these tests."""
    numbers = PRIVATE_KEY.public_key().public_numbers()
    entry = {"kty": "RSA", "kid": KEY_ID, "use": "sig", "n": _unsigned(numbers.n), "e": _unsigned(numbers.e)}
    return {"keys": [entry]}


def id_token(header: Mapping[str, Any] | None = None, /, **claims: Any) -> str:
    """Sign an ID token of Google for our client. What is given replaces members of its header and claims; `ABSENT`
    leaves a claim out."""
    members = {
        "iss": "https://accounts.google.com",
        "aud": CLIENT_ID,
        "sub": "118",
        "email": "ada@example.com",
        "iat": NOW,
        "exp": NOW + 3600,
        "nonce": NONCE,
    }
    jose = {"alg": "RS256", "kid": KEY_ID, "typ": "JWT"} | dict(header or {})
    return signed(encoded(jose), encoded(members | claims))


def grant(clock: SetClock | None = None, *, token: str | None = None, access_token: str = ACCESS_TOKEN) -> TokenAnswer:
    """Return a provider's token answer to an authorization code; `token` is the ID token in it."""
    return TokenAnswer(
        access_token=access_token,
        refresh_token="refresh-1",
        lifetime_seconds=3600,
        scopes=None,
        sent_at=float(NOW),
        id_token=token,
        received_at=(clock or SetClock()).now(),
    )


def _unsigned(number: int) -> str:
    return base64url(number.to_bytes((number.bit_length() + 7) // 8, "big"))
