"""Finds a provider's endpoints in the provider's file, or in the document that the provider publishes (OpenID Connect
Discovery 1.0)."""

import asyncio
from collections.abc import Mapping
from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final

import structlog

from services.user_management.core.clock import Clock
from services.user_management.enums import ProviderErrorKind
from services.user_management.exceptions import RetryLaterError
from services.user_management.http_client import HttpClient, fetch_json, is_web_address
from services.user_management.integrations.provider_config import ProviderConfig
from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.integrations.provider_sections import Revocation
from services.user_management.security.jws import ALGORITHM

FRESH_SECONDS: Final = 86_400.0
COOL_DOWN_SECONDS: Final = 30.0
"""The pause between two attempts to fetch a document that could not be fetched."""
DISCOVERY_FAILED: Final = "discovery_failed"
DISCOVERY_REFUSED: Final = "discovery_document_refused"
"""Error code: the document belongs to another issuer, lacks an endpoint that we need, names an unsafe or malformed one,
or announces ID tokens that we cannot verify."""
_ID_TOKEN_ALGORITHMS: Final = "id_token_signing_alg_values_supported"  # noqa: S105 - the name of a member

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Endpoints:
    """The URLs of a provider's endpoints, and how to revoke tokens there; None for an endpoint that it lacks."""

    authorization: str
    token: str
    userinfo: str | None
    jwks: str | None
    revocation: Revocation | None
    answers_iss: bool
    """Whether the authorization answer always names its issuer (RFC 9207 section 3)."""


@dataclass(slots=True)
class _Published:
    """What we know of one issuer's document: its content if it was ever fetched, and how the last attempts went. Times
    are in monotonic seconds."""

    document: Mapping[str, Any] | None = None
    fetched_at: float = float("-inf")
    tried_at: float = float("-inf")
    failure: ProviderCallError | None = None
    fetch: asyncio.Task[None] | None = None


class Discovery:
    """Finds the endpoints of providers, and keeps the published documents. A document is fetched when it is first
    needed, once for all callers, and again when it is needed after a day; if that fails, the old one stays in use."""

    def __init__(self, http: HttpClient, clock: Clock) -> None:
        self._http = http
        self._clock = clock
        self._published: dict[str, _Published] = {}

    async def endpoints(self, config: ProviderConfig) -> Endpoints:
        """Return the provider's endpoints. Raises ProviderCallError if its file says `discovery`, and no usable
        document has been fetched so far, nor can be now."""
        document: Mapping[str, Any] = await self._document(config) if config.discovery else {}
        revocation = config.revocation
        if revocation is None and (url := config.revocation_endpoint or document.get("revocation_endpoint")):
            revocation = config.revocation_at(url)
        return Endpoints(
            authorization=config.authorization_endpoint or document["authorization_endpoint"],
            token=config.token_endpoint or document["token_endpoint"],
            userinfo=config.userinfo_endpoint or document.get("userinfo_endpoint"),
            jwks=config.jwks_uri or document.get("jwks_uri"),
            revocation=revocation,
            answers_iss=config.answers_iss or document.get("authorization_response_iss_parameter_supported") is True,
        )

    async def answers_iss(self, config: ProviderConfig) -> bool:
        """Tell whether an authorization answer without `iss` must be refused, according to the provider's file or its
        document. Return False and log a warning if there is no document: a user who has just consented is not turned
        away for that."""
        if config.answers_iss or not config.discovery:
            return config.answers_iss
        try:
            return (await self.endpoints(config)).answers_iss
        except ProviderCallError as error:
            log.warning("discovery.issuer_unchecked", provider=config.name, reason=error.code)
            return False

    async def _document(self, config: ProviderConfig) -> Mapping[str, Any]:
        known = self._published.setdefault(config.issuer, _Published())
        if known.document is None or self._clock.monotonic() - known.fetched_at > FRESH_SECONDS:
            fetch = self._start_fetch(config, known)
            if known.document is None and fetch is not None:
                await asyncio.shield(fetch)
        if known.document is None:
            failure = known.failure
            kind = failure.kind if failure else ProviderErrorKind.TRANSIENT
            code = failure.code if failure else DISCOVERY_FAILED
            # A new exception each time: one that is raised twice collects both tracebacks.
            raise ProviderCallError(
                kind, code, detail=failure.detail if failure else None, retry_after=self._wait(known)
            )
        return known.document

    def _wait(self, known: _Published) -> float:
        return max(1.0, COOL_DOWN_SECONDS - (self._clock.monotonic() - known.tried_at))

    def _start_fetch(self, config: ProviderConfig, known: _Published) -> asyncio.Task[None] | None:
        """Return the fetch that is under way, or start one; None if the last attempt was less than COOL_DOWN_SECONDS
        ago."""
        if known.fetch is not None and not known.fetch.done():
            return known.fetch
        now = self._clock.monotonic()
        if now - known.tried_at < COOL_DOWN_SECONDS:
            return None
        known.tried_at = now
        # Callers share the task: it must not inherit one caller's context, nor die with one caller.
        known.fetch = asyncio.get_running_loop().create_task(self._fetch(config, known), context=Context())
        return known.fetch

    async def _fetch(self, config: ProviderConfig, known: _Published) -> None:
        url = f"{config.issuer.rstrip('/')}/.well-known/openid-configuration"
        try:
            document = await fetch_json(self._http, url)
        except RetryLaterError as error:
            log.warning("discovery.fetch_failed", provider=config.name, reason=str(error))
            known.failure = ProviderCallError(ProviderErrorKind.TRANSIENT, DISCOVERY_FAILED)
            return
        if (problem := _problem(config, document)) is not None:
            log.error("discovery.document_refused", provider=config.name, reason=problem)
            known.failure = ProviderCallError(ProviderErrorKind.OPERATOR, DISCOVERY_REFUSED, detail=problem)
            return
        known.document = document
        known.fetched_at = self._clock.monotonic()


def _problem(config: ProviderConfig, document: Mapping[str, Any]) -> str | None:
    """Return the name of the member that makes a document unusable; None if the document is good. Its `issuer` must be
    the one whose document was requested (section 4.3)."""
    if document.get("issuer") != config.issuer:
        return "issuer"
    for name in ("authorization_endpoint", "token_endpoint", "userinfo_endpoint", "jwks_uri", "revocation_endpoint"):
        if getattr(config, name) is None and not _is_endpoint(config, name, document.get(name)):
            return name
    return _ID_TOKEN_ALGORITHMS if _has_foreign_id_tokens(config, document) else None


def _has_foreign_id_tokens(config: ProviderConfig, document: Mapping[str, Any]) -> bool:
    """Tell whether we would verify ID tokens, and the document's list of their signing algorithms lacks RS256, which
    the list must contain (section 3). False if there is no list. This is checked before a user is sent to the provider:
    otherwise each connect attempt would fail after the user has consented."""
    algorithms = document.get(_ID_TOKEN_ALGORITHMS)
    if algorithms is None or (config.jwks_uri is None and document.get("jwks_uri") is None):
        return False
    return not isinstance(algorithms, list) or ALGORITHM not in algorithms


def _is_endpoint(config: ProviderConfig, name: str, url: Any) -> bool:
    if url is None:
        needed = {"authorization_endpoint", "token_endpoint"} | ({"jwks_uri"} if config.needs_id_token else set())
        return name not in needed
    is_safe = isinstance(url, str) and (url.startswith("https://") or config.issuer.startswith("http://"))
    return is_safe and is_web_address(url)
