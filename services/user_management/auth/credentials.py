"""Reading the credential off a request, strictly."""

from typing import Final
from urllib.parse import urlsplit

from fastapi import Request

from services.user_management.auth.dependencies import get_container
from services.user_management.exceptions import CrossSiteRequestError, UnauthenticatedError

MAX_CREDENTIAL_CHARACTERS: Final = 8192
SESSION_COOKIE: Final = "__session"
_MAX_SESSION_COOKIES: Final = 4
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_OWN_PAGES: Final = frozenset({"same-origin", "none"})
"""`none`: typed into the address bar. `same-site` is not ours: a sibling host may belong to somebody else."""


def bearer_token(request: Request) -> str:
    """The token of `Authorization: Bearer …` (RFC 6750 section 2.1; the scheme in any case).

    Raises UnauthenticatedError when there is none, or anything but exactly one.
    """
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        raise UnauthenticatedError
    scheme, _, token = headers[0].partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_CREDENTIAL_CHARACTERS or not token.isascii():
        raise UnauthenticatedError
    return token


def session_tokens(request: Request) -> list[str]:
    """The session token: of the Authorization header, or else of Clerk's cookie, of which there may be several.

    Raises UnauthenticatedError for none, CrossSiteRequestError for a cookie that a foreign page made the browser send.
    """
    if "x-api-key" in request.headers:
        raise UnauthenticatedError("Send one credential.")
    if "authorization" in request.headers:
        return [bearer_token(request)]
    # Suffixed by the instance (`__session_xxxxxxxx`) where several share a host; the plain one is the fallback.
    named = sorted(
        (name for name in request.cookies if name == SESSION_COOKIE or name.startswith(f"{SESSION_COOKIE}_")),
        key=len,
        reverse=True,
    )
    tokens = [request.cookies[name] for name in named if request.cookies[name]]
    if not tokens or len(tokens) > _MAX_SESSION_COOKIES:
        raise UnauthenticatedError
    _refuse_other_sites(request)
    return tokens


def _refuse_other_sites(request: Request) -> None:
    """A cookie comes by itself, so the browser must say that one of our pages sent the request.

    Reads by Sec-Fetch-Site (Fetch Metadata), since browsers send no Origin with them; all else by Origin (RFC 6454).
    """
    if request.method in _SAFE_METHODS:
        own = request.headers.get("sec-fetch-site") in _OWN_PAGES
    else:
        origins = request.headers.getlist("origin")
        own = len(origins) == 1 and origins[0] in _allowed_origins(request)
    if not own:
        raise CrossSiteRequestError


def _allowed_origins(request: Request) -> set[str]:
    settings = get_container(request).resources.settings
    return {_origin(url) for url in (settings.public_url, *settings.frontend.origins)}


def _origin(url: str) -> str:
    """As browsers write it (RFC 6454 section 6.2): lower case, without the port that goes without saying."""
    parts = urlsplit(url)
    port = None if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else parts.port
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
