"""Tests of the OAuth protocol with each built-in provider: what is sent, what a token answer holds, how a token is
revoked and probed, and what each failure means."""

import asyncio
import base64
import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.user_management.enums import ProviderErrorKind
from services.user_management.integrations.oauth_client import RevocationOutcome, TokenAnswer
from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.integrations.provider_sections import DailyExpiry
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.provider_scenes import (
    CLIENT_ID,
    CLIENT_SECRET,
    NONCE,
    REDIRECT_URI,
    Edge,
    body,
    built_in,
    client,
)

GOOGLE = "https://oauth2.googleapis.com/token"
MICROSOFT = "https://login.microsoftonline.com/common/oauth2/v2.0/token"
GITHUB = "https://github.com/login/oauth/access_token"
SLACK = "https://slack.com/api/oauth.v2.access"
COMMON = {"response_type": "code", "client_id": CLIENT_ID, "redirect_uri": REDIRECT_URI, "state": "state-1"}
S256 = {"code_challenge": "challenge", "code_challenge_method": "S256"}
BASIC = f"Basic {base64.b64encode(f'{CLIENT_ID}:{CLIENT_SECRET}'.encode()).decode()}"


@pytest.mark.parametrize(
    ("name", "scopes", "endpoint", "parameters"),
    [
        (
            "google",
            ("email", "openid"),
            "https://accounts.google.com/o/oauth2/v2/auth",
            {
                "scope": "email openid",
                "access_type": "offline",
                "include_granted_scopes": "true",
                "prompt": "consent",
                "login_hint": "ada@example.com",
                "nonce": NONCE,
                **S256,
            },
        ),
        (
            "microsoft",
            ("Mail.Read", "offline_access", "openid"),
            "https://login.microsoftonline.com/common/oauth2/v2.0/authorize",
            {
                "scope": "Mail.Read offline_access openid",
                "prompt": "select_account",
                "login_hint": "ada@example.com",
                "nonce": NONCE,
                **S256,
            },
        ),
        (
            "github",
            ("read:user", "user:email"),
            "https://github.com/login/oauth/authorize",
            {"scope": "read:user user:email", "login": "ada@example.com", **S256},
        ),
        (
            "slack",
            ("chat:write", "users:read"),
            "https://slack.com/oauth/v2/authorize",
            {"user_scope": "chat:write,users:read"},
        ),
    ],
)
async def test_authorization_url_is_exactly_what_the_provider_wants(
    name: str, scopes: tuple[str, ...], endpoint: str, parameters: dict[str, str]
) -> None:
    provider = built_in(name)

    url = await client(Edge()).authorization_url(
        provider,
        redirect_uri=REDIRECT_URI,
        state="state-1",
        scopes=scopes,
        code_challenge="challenge" if provider.config.pkce else None,
        login_hint="ada@example.com",
        nonce=NONCE if provider.config.nonce else None,
    )

    assert url.partition("?")[0] == endpoint
    assert dict(parse_qsl(urlsplit(url).query, strict_parsing=True)) == COMMON | parameters


@pytest.mark.parametrize(("name", "prompt"), [("google", None), ("microsoft", "select_account")])
async def test_authorization_url_without_need_of_consent_does_not_ask_for_it(name: str, prompt: str | None) -> None:
    url = await client(Edge()).authorization_url(
        built_in(name),
        redirect_uri=REDIRECT_URI,
        state="state-1",
        scopes=("openid",),
        code_challenge=None,
        login_hint=None,
        ask_consent=False,
    )

    query = dict(parse_qsl(urlsplit(url).query))
    assert query.get("prompt") == prompt
    assert not {"nonce", "login_hint", "code_challenge"} & set(query)


async def test_parameter_of_the_operators_client_is_in_every_url_of_the_provider() -> None:
    provider = built_in("microsoft", {"tenant": "contoso.example"})

    assert "https://login.microsoftonline.com/contoso.example/v2.0" in provider.config.urls()
    assert not [url for url in provider.config.urls() if "common" in url or "{" in url]


@pytest.mark.parametrize(("name", "endpoint"), [("google", GOOGLE), ("github", GITHUB), ("slack", SLACK)])
async def test_exchange_sends_code_verifier_and_client_in_the_form(name: str, endpoint: str) -> None:
    edge = Edge()
    edge.answer(endpoint, body({"ok": True, "access_token": "a"}))

    await client(edge).exchange_code(built_in(name), code="c", redirect_uri=REDIRECT_URI, code_verifier="v")

    assert edge.form() == {
        "grant_type": "authorization_code",
        "code": "c",
        "redirect_uri": REDIRECT_URI,
        "code_verifier": "v",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
    }
    # GitHub answers with a form otherwise.
    assert edge.requests[0].headers["accept"] == "application/json"


async def test_client_that_authenticates_in_the_header_keeps_its_secret_out_of_the_form() -> None:
    edge = Edge()
    edge.answer(GOOGLE, body({"access_token": "a"}))

    provider = built_in("google", client_authentication="client_secret_basic")
    await client(edge).refresh(provider, refresh_token="r")

    assert edge.requests[0].headers["authorization"] == BASIC
    assert edge.form() == {"grant_type": "refresh_token", "refresh_token": "r"}


@pytest.mark.parametrize(
    ("name", "endpoint", "answer", "access", "refresh", "lifetime", "scopes"),
    [
        (
            "google",
            GOOGLE,
            {
                "access_token": "a",
                "expires_in": 3599,
                "scope": "https://www.googleapis.com/auth/userinfo.email openid "
                "https://www.googleapis.com/auth/userinfo.profile",
            },
            "a",
            None,
            3599,
            ("email", "openid", "profile"),
        ),
        (
            "microsoft",
            MICROSOFT,
            {
                "access_token": "a",
                "refresh_token": "r",
                "expires_in": 4800,
                "scope": "https://graph.microsoft.com/MAIL.READ User.Read profile openid email",
            },
            "a",
            "r",
            4800,
            ("Mail.Read", "User.Read", "email", "offline_access", "openid", "profile"),
        ),
        (
            "github",
            GITHUB,
            {"access_token": "a", "scope": "repo,user:email", "token_type": "bearer"},
            "a",
            None,
            None,
            (
                "public_repo",
                "repo",
                "repo:invite",
                "repo:status",
                "repo_deployment",
                "security_events",
                "user:email",
            ),
        ),
        ("github", GITHUB, {"access_token": "a", "scope": ""}, "a", None, None, None),
        (
            "slack",
            SLACK,
            {
                "ok": True,
                "access_token": "bot",
                "authed_user": {
                    "id": "U1",
                    "access_token": "a",
                    "refresh_token": "r",
                    "expires_in": 43200,
                    "scope": "users:read,chat:write",
                },
            },
            "a",
            "r",
            43200,
            ("chat:write", "users:read"),
        ),
        (
            "slack",
            SLACK,
            {"ok": True, "token_type": "user", "access_token": "a", "refresh_token": "r", "expires_in": 43200},
            "a",
            "r",
            43200,
            None,
        ),
    ],
)
async def test_answer_is_read_as_the_provider_writes_it(
    name: str,
    endpoint: str,
    answer: dict[str, Any],
    access: str,
    refresh: str | None,
    lifetime: float | None,
    scopes: tuple[str, ...] | None,
) -> None:
    edge = Edge()
    edge.answer(endpoint, body(answer))

    grant = await client(edge).exchange_code(
        built_in(name), code="code-1", redirect_uri="https://app.example.com/back", code_verifier=None
    )

    assert (grant.access_token, grant.refresh_token, grant.lifetime_seconds) == (access, refresh, lifetime)
    assert grant.scopes == scopes


@pytest.mark.parametrize("answer", [{"access_token": "a"}, {"access_token": "a", "refresh_token": "r"}])
async def test_answer_to_a_refresh_that_names_no_life_counts_as_short(answer: dict[str, Any]) -> None:
    edge = Edge()
    edge.answer(GITHUB, body(answer))

    grant = await client(edge).refresh(built_in("github"), refresh_token="r0")

    assert grant.lifetime_seconds == 600


async def test_id_token_of_a_refresh_is_left_alone_and_one_of_a_code_is_kept() -> None:
    edge = Edge()
    edge.answer(GOOGLE, body({"access_token": "a", "id_token": "i"}))

    exchanged = await client(edge).exchange_code(
        built_in("google"), code="c", redirect_uri=REDIRECT_URI, code_verifier=None
    )
    refreshed = await client(edge).refresh(built_in("google"), refresh_token="r")

    assert (exchanged.id_token, refreshed.id_token) == ("i", None)


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    [(None, 3600), (-5, 0), (0, 0), ("1800", 1800), ("soon", 600), ([], 600), (1e300, 600), ("NaN", 600), (True, 1)],
)
async def test_life_that_makes_no_sense_is_short_and_costs_no_token(expires_in: object, lifetime: float) -> None:
    edge = Edge()
    edge.answer(GOOGLE, body({"access_token": "a", "refresh_token": "r", "expires_in": expires_in}))

    grant = await client(edge).refresh(built_in("google"), refresh_token="r0")

    assert (grant.refresh_token, grant.lifetime_seconds) == ("r", lifetime)


@pytest.mark.parametrize(
    ("expires_in", "lifetime"),
    # The clock stands at 13:30 in Kolkata.
    [(None, 16.5 * 3600), (60, 60)],
)
async def test_token_that_dies_at_a_time_of_day_lives_until_then(expires_in: object, lifetime: float) -> None:
    edge = Edge()
    edge.answer(GOOGLE, body({"access_token": "a", "expires_in": expires_in}))
    provider = built_in("google", daily_expiry=DailyExpiry.model_validate("06:00 Asia/Kolkata"))

    grant = await client(edge).refresh(provider, refresh_token="r0")

    assert grant.lifetime_seconds == lifetime


@pytest.mark.parametrize("token", ["tok\u00e9n", "to\nken", "\u0000", "\u007f", ""])
async def test_access_token_that_no_header_can_carry_is_an_unusable_answer(token: str) -> None:
    edge = Edge()
    edge.answer(GOOGLE, body({"access_token": token, "refresh_token": "r", "expires_in": 60}))

    with pytest.raises(ProviderCallError) as caught:
        await client(edge).refresh(built_in("google"), refresh_token="r0")

    assert (caught.value.code, caught.value.unusable) == ("unreadable_http_200", True)


async def test_refresh_token_of_any_text_is_kept() -> None:
    edge = Edge()
    edge.answer(GOOGLE, body({"access_token": "a b~", "refresh_token": "r\u00e9", "expires_in": 60}))

    grant = await client(edge).refresh(built_in("google"), refresh_token="r0")

    assert (grant.access_token, grant.refresh_token) == ("a b~", "r\u00e9")


@pytest.mark.parametrize(
    ("keys", "token"),
    [
        ({}, "tok\u00e9n"),
        ({"userinfo_endpoint": "https://acme.example/\u0007"}, "a"),
        ({"userinfo_endpoint": "https://xn--/"}, "a"),
    ],
)
async def test_request_that_cannot_be_sent_is_the_operators_affair(keys: dict[str, str], token: str) -> None:
    edge = Edge()

    with pytest.raises(ProviderCallError) as caught:
        await client(edge).probe(built_in("google", **keys), token)

    assert (caught.value.kind, caught.value.code) == (ProviderErrorKind.OPERATOR, "unsendable_request")
    assert not edge.requests


async def test_call_whose_time_has_run_out_sends_nothing() -> None:
    edge = Edge()

    with pytest.raises(ProviderCallError) as caught:
        await client(edge).refresh(built_in("google"), refresh_token="r", may_send=lambda: False)

    assert (caught.value.kind, caught.value.code) == (ProviderErrorKind.TRANSIENT, "too_late")
    assert not edge.requests


async def test_provider_that_fails_five_times_is_left_alone_while_another_is_asked() -> None:
    edge, clock = Edge(), SetClock()
    edge.answer(GOOGLE, httpx.Response(500))
    edge.answer(GITHUB, body({"access_token": "a"}))
    oauth = client(edge, clock)

    codes = []
    for _ in range(7):
        with pytest.raises(ProviderCallError) as caught:
            await oauth.refresh(built_in("google"), refresh_token="r")
        codes.append(caught.value.code)
    await oauth.refresh(built_in("github"), refresh_token="r")

    assert codes == ["http_500"] * 5 + ["breaker_open"] * 2
    assert edge.calls(GOOGLE) == 5


@pytest.mark.parametrize(
    ("name", "method", "url", "authorization", "content"),
    [
        ("google", "POST", "https://oauth2.googleapis.com/revoke", None, b"token=t"),
        (
            "github",
            "DELETE",
            f"https://api.github.com/applications/{CLIENT_ID}/grant",
            BASIC,
            b'{"access_token":"t"}',
        ),
        ("slack", "POST", "https://slack.com/api/auth.revoke", "Bearer t", b""),
    ],
)
async def test_revocation_is_what_the_provider_wants(
    name: str, method: str, url: str, authorization: str | None, content: bytes
) -> None:
    edge = Edge()
    edge.answer(url, body({"ok": True, "revoked": True}))

    outcome = await client(edge).revoke(built_in(name), token="t")

    assert outcome is RevocationOutcome.REVOKED
    assert (edge.requests[0].method, edge.requests[0].content) == (method, content)
    assert edge.requests[0].headers.get("authorization") == authorization


@pytest.mark.parametrize(
    ("name", "url", "reply"),
    [
        ("google", "https://oauth2.googleapis.com/revoke", body({"error": "invalid_token"}, 400)),
        ("github", f"https://api.github.com/applications/{CLIENT_ID}/grant", body({"message": "Not Found"}, 404)),
        ("github", f"https://api.github.com/applications/{CLIENT_ID}/grant", body({"message": "x"}, 422)),
        ("slack", "https://slack.com/api/auth.revoke", body({"ok": False, "error": "token_revoked"})),
        ("slack", "https://slack.com/api/auth.revoke", body({"ok": False, "error": "account_inactive"})),
    ],
)
async def test_revocation_of_a_token_that_nobody_knows_is_done(name: str, url: str, reply: httpx.Response) -> None:
    edge = Edge()
    edge.answer(url, reply)

    assert await client(edge).revoke(built_in(name), token="t") is RevocationOutcome.ALREADY_GONE


@pytest.mark.parametrize(
    ("name", "url", "reply", "kind", "code"),
    [
        (
            "google",
            "https://oauth2.googleapis.com/revoke",
            httpx.Response(503),
            ProviderErrorKind.TRANSIENT,
            "http_503",
        ),
        (
            "github",
            f"https://api.github.com/applications/{CLIENT_ID}/grant",
            body({"message": "Bad credentials"}, 401),
            ProviderErrorKind.OPERATOR,
            "invalid_client",
        ),
        (
            "slack",
            "https://slack.com/api/auth.revoke",
            body({"ok": False, "error": "ratelimited"}, 429),
            ProviderErrorKind.TRANSIENT,
            "ratelimited",
        ),
    ],
)
async def test_revocation_that_fails_says_who_has_to_act(
    name: str, url: str, reply: httpx.Response, kind: ProviderErrorKind, code: str
) -> None:
    edge = Edge()
    edge.answer(url, reply)

    with pytest.raises(ProviderCallError) as caught:
        await client(edge).revoke(built_in(name), token="t")

    assert (caught.value.kind, caught.value.code) == (kind, code)


async def test_revocation_at_microsoft_is_known_to_be_impossible() -> None:
    provider = built_in("microsoft")

    with pytest.raises(ProviderCallError) as caught:
        await client(Edge()).revoke(provider, token="t")

    assert caught.value.code == "revocation_impossible"
    assert not provider.config.can_revoke
    assert "myapps.microsoft.com" in (provider.config.revocation_note or "")


@pytest.mark.parametrize(
    ("name", "url", "reply", "kind", "code"),
    [
        (
            "google",
            "https://openidconnect.googleapis.com/v1/userinfo",
            body({"error": "invalid_request"}, 401),
            ProviderErrorKind.REAUTH,
            "access_token_refused",
        ),
        (
            "github",
            "https://api.github.com/user",
            body({"message": "Bad credentials"}, 401),
            ProviderErrorKind.REAUTH,
            "access_token_refused",
        ),
        (
            "slack",
            "https://slack.com/api/auth.test",
            body({"ok": False, "error": "invalid_auth"}),
            ProviderErrorKind.REAUTH,
            "access_token_refused",
        ),
        (
            "slack",
            "https://slack.com/api/auth.test",
            body({"ok": False, "error": "account_inactive"}),
            ProviderErrorKind.REAUTH,
            "access_token_refused",
        ),
        (
            "google",
            "https://openidconnect.googleapis.com/v1/userinfo",
            body({}, 500),
            ProviderErrorKind.TRANSIENT,
            "http_500",
        ),
    ],
)
async def test_probe_tells_a_dead_token_from_a_provider_that_is_down(
    name: str, url: str, reply: httpx.Response, kind: ProviderErrorKind, code: str
) -> None:
    edge = Edge()
    edge.answer(url, reply)

    with pytest.raises(ProviderCallError) as caught:
        await client(edge).probe(built_in(name), "a")

    assert (caught.value.kind, caught.value.code, edge.calls(url)) == (kind, code, 1)


async def test_probe_of_a_token_that_works_says_nothing() -> None:
    edge = Edge()
    edge.answer("https://slack.com/api/auth.test", body({"ok": True, "user_id": "U1"}))

    await client(edge).probe(built_in("slack"), "a")

    assert edge.requests[0].headers["authorization"] == "Bearer a"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
NAMES = [
    *("ok", "access_token", "refresh_token", "expires_in", "refresh_token_expires_in", "scope", "id_token"),
    *("authed_user", "error", "error_description", "error_codes", "suberror"),
]
MEMBERS = st.dictionaries(st.sampled_from(NAMES), JSON, max_size=6)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(["google", "microsoft", "github", "slack"]),
    status=st.sampled_from([200, 201, 302, 400, 401, 403, 429, 500, 503]),
    content=MEMBERS.map(lambda members: json.dumps(members).encode()) | st.binary(max_size=50),
    retry_after=st.none() | st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
)
async def test_whatever_a_provider_answers_is_a_grant_or_a_typed_error(
    name: str, status: int, content: bytes, retry_after: str | None
) -> None:
    provider = built_in(name)
    headers = {} if retry_after is None else {"retry-after": retry_after}
    endpoint = {"google": GOOGLE, "microsoft": MICROSOFT, "github": GITHUB, "slack": SLACK}[name]
    edge = Edge()
    edge.answer(endpoint, httpx.Response(status, headers=headers, content=content))

    outcome = await asyncio.gather(
        client(edge).exchange_code(provider, code="c", redirect_uri=REDIRECT_URI, code_verifier=None),
        return_exceptions=True,
    )

    match outcome:
        case [TokenAnswer() as grant]:
            assert grant.access_token
            assert grant.access_token.isascii()
            assert grant.access_token.isprintable()
            assert grant.lifetime_seconds is None or 0 <= grant.lifetime_seconds < 10**9
        case [ProviderCallError() as error]:
            assert error.answered
            assert len(error.code) <= 64
        case _:
            pytest.fail(f"neither a token answer nor a typed error: {outcome!r}")
