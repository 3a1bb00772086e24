"""Functions that read the credential (bearer token or session cookie) from a request, and refuse one whose form or
origin is in doubt."""

from typing import Final
from urllib.parse import urlsplit

from fastapi import Request
from starlette.requests import cookie_parser

from services.user_management.auth.dependencies import get_container
from services.user_management.exceptions import CrossSiteRequestError, UnauthenticatedError
from services.user_management.security.jws import MIN_TOKEN_CHARACTERS

MAX_CREDENTIAL_CHARACTERS: Final = 8192
SESSION_COOKIE: Final = "__session"
_MAX_SESSION_COOKIES: Final = 64
"""The most values of session cookies that are tried; 64 forgeries take 4 ms. A sibling subdomain can make a browser
send more, but then in a header line of 23 KB and more; nginx takes 8 KB unless it is told otherwise."""
_SAFE_METHODS: Final = frozenset({"GET", "HEAD"})
_OWN_PAGES: Final = frozenset({"same-origin", "none"})
"""Values of Sec-Fetch-Site that show one of our own pages, or, as `none`, an address that somebody typed.
`same-site` is not among them: a sibling host may belong to somebody else."""


def bearer_token(request: Request) -> str:
    """Return the token of `Authorization: Bearer …` (RFC 6750 section 2.1; the scheme in any case).

    Raises UnauthenticatedError unless the request has exactly one such header, with at most 8192 ASCII characters.
    """
    headers = request.headers.getlist("authorization")
    if len(headers) != 1:
        raise UnauthenticatedError
    scheme, _, token = headers[0].partition(" ")
    if scheme.lower() != "bearer" or not token or len(token) > MAX_CREDENTIAL_CHARACTERS or not token.isascii():
        raise UnauthenticatedError
    return token


def session_tokens(request: Request) -> list[str]:
    """Return the session token from the Authorization header, or else the different values of Clerk's session cookies,
    of which a browser may send several. No token is verified here.

    Raises UnauthenticatedError if there is none, or more than 64 values, or an `X-API-Key`, or for a malformed
    Authorization header; CrossSiteRequestError for a cookie that a foreign page made the browser send.
    """
    if "x-api-key" in request.headers:
        raise UnauthenticatedError("Send one credential.")
    if "authorization" in request.headers:
        return [bearer_token(request)]
    tokens = _session_cookies(request)
    if not tokens:
        raise UnauthenticatedError
    if len(tokens) > _MAX_SESSION_COOKIES:
        # Somebody else has planted them, so this was no guess of the user's and does not count as one.
        raise UnauthenticatedError("There are too many session cookies.", counts=False)
    _refuse_other_sites(request)
    return tokens


def _session_cookies(request: Request) -> list[str]:
    """Return the different values of our Clerk instance's session cookie: first of the cookie whose name has the
    instance's suffix, then of the one whose name has none.

    Cookies with any other suffix belong to other instances. A sibling subdomain can set cookies that come with ours,
    and a request does not say for which domain and path a cookie was set. So no value is dropped in favour of one that
    comes after it.

    Pairs too short for a session token are passed over before they are parsed: a header has room for 60,000 of them.
    """
    suffix = get_container(request).resources.settings.clerk.cookie_suffix
    found: dict[str, dict[str, None]] = {f"{SESSION_COOKIE}_{suffix}": {}} if suffix else {}
    found[SESSION_COOKIE] = {}
    for header in request.headers.getlist("cookie"):
        for pair in header.split(";"):
            if len(pair) < MIN_TOKEN_CHARACTERS:
                continue
            for name, value in cookie_parser(pair).items():
                if value and name in found:
                    found[name][value] = None
    return list(dict.fromkeys(value for values in found.values() for value in values))


def _refuse_other_sites(request: Request) -> None:
    """Raise CrossSiteRequestError unless the browser says that one of our pages sent the request (or, for GET and HEAD,
    that somebody typed the address), because browsers add cookies by themselves.

    GET and HEAD are judged by Sec-Fetch-Site (Fetch Metadata), since browsers send no Origin with them; all other
    methods by Origin (RFC 6454).
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
    """Return the URL's origin as browsers write it (RFC 6454 section 6.2): in lower case, without the scheme's
    default port."""
    parts = urlsplit(url)
    port = None if parts.port in (None, {"http": 80, "https": 443}[parts.scheme]) else parts.port
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")
