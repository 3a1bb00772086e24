"""Tests of how the account is found that tokens belong to: from the ID token, from user info, or from both where they
must agree."""

from typing import Any

import httpx
import pytest

from services.user_management.enums import ProviderErrorKind
from services.user_management.integrations.oauth_client import Account
from services.user_management.integrations.oauth_config import Provider
from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.integrations.provider_sections import AccountMapping, UserInfoMapping
from services.user_management.tests.clocks import NOW
from services.user_management.tests.provider_scenes import (
    GOOGLE_KEYS,
    NONCE,
    Edge,
    body,
    built_in,
    client,
    grant,
    id_token,
    key_set,
)
from services.user_management.tests.session_tokens import ABSENT

MICROSOFT_KEYS = "https://login.microsoftonline.com/common/discovery/v2.0/keys"
GOOGLE_USER_INFO = "https://openidconnect.googleapis.com/v1/userinfo"
GITHUB_USER = "https://api.github.com/user"
GITHUB_EMAILS = "https://api.github.com/user/emails"
SLACK_TEST = "https://slack.com/api/auth.test"


def edge_with_keys() -> Edge:
    edge = Edge()
    edge.answer(GOOGLE_KEYS, body(key_set()))
    edge.answer(MICROSOFT_KEYS, body(key_set()))
    return edge


async def failure(edge: Edge, provider: Provider, token: str | None, nonce: str | None = NONCE) -> ProviderCallError:
    with pytest.raises(ProviderCallError) as caught:
        await client(edge).fetch_account(provider, grant(token=token), nonce=nonce)
    return caught.value


async def test_account_at_google_is_the_subject_of_the_id_token() -> None:
    edge = edge_with_keys()

    account = await client(edge).fetch_account(built_in("google"), grant(token=id_token(iat=NOW - 3)), nonce=NONCE)

    assert account == Account(id="118", email="ada@example.com", clock_skew_seconds=-3)
    assert [str(request.url) for request in edge.requests] == [GOOGLE_KEYS]


@pytest.mark.parametrize(
    ("claims", "email"),
    [
        ({"email": "ada@example.com"}, "ada@example.com"),
        ({"email": ABSENT, "preferred_username": "ada@contoso.example"}, "ada@contoso.example"),
        ({"email": ABSENT, "preferred_username": "+15550100"}, None),
        ({"email": 7}, None),
        ({"email": "x" * 400 + "@example.com"}, None),
    ],
)
async def test_account_at_microsoft_is_person_and_tenant(claims: dict[str, Any], email: str | None) -> None:
    issuer = "https://login.microsoftonline.com/t-1/v2.0"
    token = id_token(iss=issuer, tid="t-1", oid="o-1", sub="pairwise", **claims)

    account = await client(edge_with_keys()).fetch_account(built_in("microsoft"), grant(token=token), nonce=NONCE)

    assert (account.id, account.email) == ("o-1.t-1", email)


@pytest.mark.parametrize("claim", ["oid", "tid"])
async def test_account_at_microsoft_without_half_its_name_is_none(claim: str) -> None:
    claims = {"oid": "o-1", "tid": "t-1", claim: ABSENT} | ({"tid": ABSENT} if claim == "tid" else {})
    provider = built_in("microsoft", id_token_issuers=("https://login.microsoftonline.com/t-1/v2.0",))

    error = await failure(
        edge_with_keys(), provider, id_token(iss="https://login.microsoftonline.com/t-1/v2.0", **claims)
    )

    assert error.code == "no_account_id"


async def test_account_at_slack_is_workspace_and_user() -> None:
    edge = Edge()
    edge.answer(SLACK_TEST, body({"ok": True, "team_id": "T1", "user_id": "U1", "user": "ada"}))

    account = await client(edge).fetch_account(built_in("slack"), grant())

    assert account == Account(id="T1.U1", email=None)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("emails", "email"),
    [
        (
            body(
                [
                    {"email": "old@example.com", "primary": False, "verified": True},
                    {"email": "ada@example.com", "primary": True, "verified": True},
                ]
            ),
            "ada@example.com",
        ),
        (body([{"email": "ada@example.com", "primary": True, "verified": False}]), None),
        (body({"message": "Not Found"}, 404), None),
        (body({"message": "x"}, 401), None),
        (body([1, None, {"primary": True, "verified": True}]), None),
        (httpx.Response(200, content=b"<html>"), None),
        (httpx.Response(500), None),
    ],
)
async def test_account_at_github_takes_the_primary_address_where_none_is_public(
    emails: httpx.Response, email: str | None
) -> None:
    edge = Edge()
    edge.answer(GITHUB_USER, body({"id": 583231, "login": "octo", "email": None}))
    edge.answer(GITHUB_EMAILS, emails)

    account = await client(edge).fetch_account(built_in("github"), grant())

    assert account == Account(id="583231", email=email)


async def test_account_at_github_with_a_public_address_is_one_request() -> None:
    edge = Edge()
    edge.answer(GITHUB_USER, body({"id": 583231, "email": "ada@example.com"}))

    account = await client(edge).fetch_account(built_in("github"), grant())

    assert (account.email, len(edge.requests)) == ("ada@example.com", 1)


@pytest.mark.parametrize(
    ("token", "detail"),
    [
        (id_token(aud="another"), "audience"),
        (id_token(nonce="another"), "nonce"),
        (id_token(iss="https://evil.example"), "issuer"),
        (id_token(exp=NOW - 4000, iat=NOW - 8000), "expired"),
        (id_token({"kid": "unknown"}), "signature"),
        ("rubbish", "signature"),
    ],
)
async def test_id_token_that_is_wrong_connects_nobody(token: str, detail: str) -> None:
    error = await failure(edge_with_keys(), built_in("google"), token)

    assert (error.kind, error.code, error.detail) == (ProviderErrorKind.TRANSIENT, "id_token_refused", detail)
    assert error.answered
    assert error.outcome_unknown


@pytest.mark.parametrize("name", ["google", "microsoft"])
async def test_answer_without_the_id_token_that_the_file_demands_connects_nobody(name: str) -> None:
    error = await failure(edge_with_keys(), built_in(name), None)

    assert (error.kind, error.code) == (ProviderErrorKind.TRANSIENT, "id_token_missing")


async def test_nonce_demands_an_id_token_also_where_the_file_does_not() -> None:
    edge = Edge()
    edge.answer(GITHUB_USER, body({"id": 1}))

    error = await failure(edge, built_in("github"), None)

    assert error.code == "id_token_missing"


async def test_keys_that_cannot_be_had_are_transient() -> None:
    edge = Edge()
    edge.answer(GOOGLE_KEYS, httpx.Response(503))

    error = await failure(edge, built_in("google"), id_token())

    assert (error.kind, error.code, error.outcome_unknown) == (ProviderErrorKind.TRANSIENT, "keys_unavailable", True)


@pytest.mark.parametrize(("subject", "is_same"), [("118", True), ("119", False)])
async def test_user_info_must_be_of_the_subject_of_the_id_token(subject: str, *, is_same: bool) -> None:
    edge = edge_with_keys()
    edge.answer(GOOGLE_USER_INFO, body({"sub": subject, "email": "ada@example.com"}))
    provider = built_in("google", account=AccountMapping(source="userinfo"))

    if is_same:
        account = await client(edge).fetch_account(provider, grant(token=id_token()), nonce=NONCE)
        assert account.id == subject
    else:
        assert (await failure(edge, provider, id_token())).code == "subject_mismatch"


@pytest.mark.parametrize(
    "user",
    [{}, {"id": None}, {"id": True}, {"id": []}, {"id": ""}, {"id": "x" * 256}, {"id": 1.5}, ["id"], "id"],
)
async def test_user_info_that_names_nobody_is_refused(user: object) -> None:
    edge = Edge()
    edge.answer(GITHUB_USER, body(user))

    error = await failure(edge, built_in("github"), None, nonce=None)

    assert (error.kind, error.code, error.answered) == (ProviderErrorKind.TRANSIENT, "no_account_id", True)


async def test_user_info_in_the_short_form_of_a_file_is_read() -> None:
    edge = Edge()
    edge.answer(GITHUB_USER, body({"uid": 7, "mail": "ada@example.com", "https://example.com/org": "o"}))
    short = built_in("github", account=None, userinfo=UserInfoMapping(account_id="uid", email="mail"))
    long = built_in("github", account=AccountMapping(id=("https://example.com/org", "uid"), email=()))

    assert (await client(edge).fetch_account(short, grant())) == Account(id="7", email="ada@example.com")
    assert (await client(edge).fetch_account(long, grant())) == Account(id="o.7", email=None)


@pytest.mark.slow
@pytest.mark.parametrize("first", [httpx.Response(500), httpx.ReadTimeout("x"), httpx.ConnectError("x")])
async def test_user_info_is_asked_for_again_since_the_code_is_used_up(first: httpx.Response | Exception) -> None:
    edge = Edge()
    edge.answer(GITHUB_USER, first, first, body({"id": 1, "email": "ada@example.com"}))

    account = await client(edge).fetch_account(built_in("github"), grant())

    assert (account.id, edge.calls(GITHUB_USER)) == ("1", 3)


@pytest.mark.slow
async def test_user_info_that_stays_away_is_asked_for_three_times() -> None:
    edge = Edge()
    edge.answer(GITHUB_USER, httpx.Response(502))

    error = await failure(edge, built_in("github"), None, nonce=None)

    assert (error.kind, error.code, edge.calls(GITHUB_USER)) == (ProviderErrorKind.TRANSIENT, "http_502", 3)


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (body({"message": "Bad credentials"}, 401), ProviderErrorKind.REAUTH, "access_token_refused"),
        (body({"error": "no_idea"}, 403), ProviderErrorKind.UNKNOWN, "no_idea"),
        (httpx.Response(429, headers={"retry-after": "60"}), ProviderErrorKind.TRANSIENT, "http_429"),
    ],
)
async def test_user_info_that_is_refused_is_asked_for_once(
    reply: httpx.Response, kind: ProviderErrorKind, code: str
) -> None:
    edge = Edge()
    edge.answer(GITHUB_USER, reply)

    error = await failure(edge, built_in("github"), None, nonce=None)

    assert (error.kind, error.code, edge.calls(GITHUB_USER)) == (kind, code, 1)
