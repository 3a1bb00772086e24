"""The user management service's address, the key with which it is called, and the HTTP requests to it."""

import re
from typing import Final, TypedDict

import httpx

from services.auth_client.exchange import Post
from services.auth_client.options import ClientOptions
from services.auth_client.wire import Answer

_KEY: Final = re.compile(r"ums_[A-Za-z0-9]+_[A-Za-z0-9]+")


class HttpDefaults(TypedDict):
    """Arguments with which a token client creates its httpx client if the caller passes none."""

    trust_env: bool
    follow_redirects: bool


# A proxy from the environment would see the key and the tokens.
HTTP_DEFAULTS: Final = HttpDefaults(trust_env=False, follow_redirects=False)


class Endpoint:
    """The user management service's address, and the key of the service that calls it. No repr or error shows the
    key."""

    def __init__(self, base_url: str, service_key: str, options: ClientOptions) -> None:
        """Check the address and the key, and keep them.

        Raises ValueError if one is malformed. Without the check, a key with a stray newline would be quoted in the
        error of the HTTP library.
        """
        try:
            url = httpx.URL(base_url)
        except httpx.InvalidURL as error:
            raise ValueError(f"base_url: {error}") from None
        if url.scheme not in {"http", "https"} or not url.host or url.query or url.fragment or url.userinfo:
            raise ValueError("base_url must be http(s)://host[:port][/path] and nothing else")
        if not _KEY.fullmatch(service_key):
            raise ValueError("service_key does not look like ums_<id>_<secret>")
        self.url: Final = str(url).rstrip("/")
        self._options = options
        self._headers = {
            "Authorization": f"Bearer {service_key}",
            "Content-Type": "application/json",
            "Accept": "application/json, application/problem+json",
            "User-Agent": "user-management-auth-client",
        }

    def request(self, http: httpx.Client | httpx.AsyncClient, post: Post) -> httpx.Request:
        """Return the HTTP request for one attempt, with its time limits."""
        seconds = post.timeout_seconds
        connect = min(seconds, self._options.connect_timeout_seconds)
        timeout = httpx.Timeout(seconds, connect=connect)
        return http.build_request(
            "POST", f"{self.url}{post.path}", content=post.body, headers=self._headers, timeout=timeout
        )


def answer_of(response: httpx.Response) -> Answer:
    """Return the status, the body and the Retry-After header of a response that was read to its end."""
    return Answer(response.status_code, response.content, response.headers.get("Retry-After"))
