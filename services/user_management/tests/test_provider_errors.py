"""Tests of who has to act on each refusal of each built-in provider. The errors are as the providers document them, and
not read from our provider files."""

import httpx
import pytest

from services.user_management.enums import ProviderErrorKind
from services.user_management.integrations.provider_errors import ProviderCallError
from services.user_management.tests.clocks import SetClock
from services.user_management.tests.provider_scenes import Edge, body, built_in, client

REAUTH, REVOKED = ProviderErrorKind.REAUTH, ProviderErrorKind.REVOKED
OPERATOR, TRANSIENT, UNKNOWN = ProviderErrorKind.OPERATOR, ProviderErrorKind.TRANSIENT, ProviderErrorKind.UNKNOWN
TOKEN_ENDPOINTS = {
    "google": "https://oauth2.googleapis.com/token",
    "microsoft": "https://login.microsoftonline.com/common/oauth2/v2.0/token",
    "github": "https://github.com/login/oauth/access_token",
    "slack": "https://slack.com/api/oauth.v2.access",
}
STANDARD = [
    ("invalid_grant", REAUTH),
    ("interaction_required", REAUTH),
    ("consent_required", REAUTH),
    ("login_required", REAUTH),
    ("invalid_client", OPERATOR),
    ("unauthorized_client", OPERATOR),
    ("invalid_request", OPERATOR),
    ("invalid_scope", OPERATOR),
    ("unsupported_grant_type", OPERATOR),
    ("temporarily_unavailable", TRANSIENT),
    ("never_heard_of", UNKNOWN),
]
IN_STATUS_200 = {
    "github": [
        ("bad_verification_code", REAUTH),
        ("bad_refresh_token", REAUTH),
        ("unverified_user_email", REAUTH),
        ("incorrect_client_credentials", OPERATOR),
        ("redirect_uri_mismatch", OPERATOR),
        ("application_suspended", OPERATOR),
        ("never_heard_of", UNKNOWN),
    ],
    "slack": [
        ("token_revoked", REVOKED),
        ("account_inactive", REVOKED),
        ("invalid_refresh_token", REAUTH),
        ("invalid_code", REAUTH),
        ("code_already_used", REAUTH),
        ("token_expired", REAUTH),
        ("invalid_auth", REAUTH),
        ("not_authed", REAUTH),
        ("two_factor_setup_required", REAUTH),
        ("bad_client_secret", OPERATOR),
        ("invalid_client_id", OPERATOR),
        ("bad_redirect_uri", OPERATOR),
        ("invalid_grant_type", OPERATOR),
        ("oauth_authorization_url_mismatch", OPERATOR),
        ("no_scopes", OPERATOR),
        ("invalid_arguments", OPERATOR),
        ("ratelimited", TRANSIENT),
        ("internal_error", TRANSIENT),
        ("fatal_error", TRANSIENT),
        ("request_timeout", TRANSIENT),
        ("service_unavailable", TRANSIENT),
        ("org_login_required", TRANSIENT),
        ("never_heard_of", UNKNOWN),
    ],
}


async def refused(name: str, reply: httpx.Response | Exception, clock: SetClock | None = None) -> ProviderCallError:
    """Return the error that a refresh at the built-in provider `name` raises if its token endpoint replies with
    `reply`."""
    edge = Edge()
    edge.answer(TOKEN_ENDPOINTS[name], reply)
    with pytest.raises(ProviderCallError) as caught:
        await client(edge, clock).refresh(built_in(name), refresh_token="refresh-1")
    return caught.value


HALF_DONE = {"server_error", "internal_error", "fatal_error"}
"""Codes of failures that may come after the refresh token was used up. Providers send all others before they use it."""


@pytest.mark.parametrize("name", TOKEN_ENDPOINTS)
@pytest.mark.parametrize(("code", "kind"), STANDARD)
async def test_standard_error_has_its_class_at_every_provider(name: str, code: str, kind: ProviderErrorKind) -> None:
    error = await refused(name, body({"error": code}, 400))

    assert (error.kind, error.code, error.answered) == (kind, code, True)
    assert error.outcome_unknown is (code in HALF_DONE)


@pytest.mark.parametrize(
    ("name", "code", "kind"), [(name, code, kind) for name, rows in IN_STATUS_200.items() for code, kind in rows]
)
async def test_error_with_status_200_has_its_class(name: str, code: str, kind: ProviderErrorKind) -> None:
    ok = {"ok": False} if name == "slack" else {}

    error = await refused(name, body({**ok, "error": code}))

    assert (error.kind, error.code, error.answered) == (kind, code, True)
    assert error.outcome_unknown is (code in HALF_DONE)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("admin_policy_enforced", REAUTH),
        ("org_internal", OPERATOR),
        ("deleted_client", OPERATOR),
        ("disabled_client", OPERATOR),
        ("redirect_uri_mismatch", OPERATOR),
        ("rate_limit_exceeded", TRANSIENT),
        ("internal_failure", TRANSIENT),
    ],
)
async def test_error_of_google_has_its_class(code: str, kind: ProviderErrorKind) -> None:
    error = await refused("google", body({"error": code}, 400))

    assert (error.kind, error.code) == (kind, code)


async def test_refusal_by_an_administrator_of_google_tells_the_subtype() -> None:
    members = {"error": "invalid_grant", "error_subtype": "invalid_rapt", "error_description": "reauth related error"}

    error = await refused("google", body(members, 400))

    assert (error.kind, error.code, error.detail) == (REAUTH, "invalid_grant", "invalid_rapt")


@pytest.mark.parametrize(
    ("code", "number", "kind"),
    [
        ("invalid_grant", 70008, REAUTH),
        ("invalid_grant", 700082, REAUTH),
        ("invalid_grant", 700084, REAUTH),
        ("invalid_grant", 50173, REAUTH),
        ("interaction_required", 50076, REAUTH),
        ("interaction_required", 50079, REAUTH),
        ("consent_required", 65001, REAUTH),
        ("login_required", 50058, REAUTH),
        ("invalid_client", 7000222, OPERATOR),
        ("invalid_resource", 500011, OPERATOR),
        ("temporarily_unavailable", 90033, TRANSIENT),
    ],
)
async def test_error_of_microsoft_tells_its_number_and_goes_by_its_code(
    code: str, number: int, kind: ProviderErrorKind
) -> None:
    members = {"error": code, "error_codes": [number], "suberror": "token_expired"}

    error = await refused("microsoft", body(members, 400))

    assert (error.kind, error.code, error.detail) == (kind, code, f"AADSTS{number}")


@pytest.mark.parametrize(
    ("members", "detail"),
    [
        ({"suberror": "bad_token"}, "bad_token"),
        ({"error_description": "AADSTS700082: The refresh token has expired."}, "AADSTS700082"),
        ({"error_codes": ["<b>"], "suberror": ["x" * 65, {}, None, True]}, None),
        ({"error_codes": {}, "suberror": 7.5, "error_description": 3}, None),
        ({}, None),
    ],
)
async def test_detail_is_a_word_from_wherever_it_stands(members: dict[str, object], detail: str | None) -> None:
    error = await refused("microsoft", body({"error": "invalid_grant", **members}, 400))

    assert error.detail == detail


async def test_class_of_a_file_may_go_by_the_detail() -> None:
    provider = built_in("google", errors={"invalid_grant/gone_for_good": REVOKED})
    edge = Edge()
    reply = body({"error": "invalid_grant", "error_subtype": "gone_for_good"}, 400)
    edge.answer(TOKEN_ENDPOINTS["google"], reply)

    with pytest.raises(ProviderCallError) as caught:
        await client(edge).refresh(provider, refresh_token="refresh-1")

    assert caught.value.kind is REVOKED


@pytest.mark.parametrize("name", TOKEN_ENDPOINTS)
@pytest.mark.parametrize(
    ("reply", "code", "outcome_unknown"),
    [
        (body({}, 429), "http_429", False),
        (body({"error": "invalid_grant"}, 503), "invalid_grant", True),
        (httpx.Response(500, content=b"<html>"), "http_500", True),
        (httpx.Response(403, content=b"<html>"), "unreadable_http_403", False),
        (httpx.Response(200, content=b"<html>"), "unreadable_http_200", True),
        (httpx.Response(302, headers={"location": "https://example.com"}), "unreadable_http_302", False),
        (body({"error": {"code": 7}}, 400), "unreadable_http_400", False),
    ],
)
async def test_answer_that_says_nothing_of_the_grant_is_transient(
    name: str, reply: httpx.Response, code: str, *, outcome_unknown: bool
) -> None:
    error = await refused(name, reply)

    assert (error.kind, error.code, error.answered) == (TRANSIENT, code, True)
    assert error.outcome_unknown is outcome_unknown


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "60"}, 60.0),
        ({"retry-after": "60", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000090"}, 60.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1800000090"}, 90.0),
        # By the provider's clock, which is ten minutes behind ours.
        ({"retry-after": "Fri, 15 Jan 2027 07:51:30 GMT", "date": "Fri, 15 Jan 2027 07:50:00 GMT"}, 90.0),
        (
            {
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": "1799999490",
                "date": "Fri, 15 Jan 2027 07:50:00 GMT",
            },
            90.0,
        ),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:30 GMT", "date": "soon"}, 90.0),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:30 GMT", "date": "Thu, 01 Jan 1970 00:00:00 GMT"}, 90.0),
        ({"retry-after": "Fri, 15 Jan 2027 08:01:30 GMT", "date": "Fri, 31 Dec 9999 23:59:59 GMT"}, 90.0),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "60"}, None),
        ({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "9" * 30}, None),
        ({"x-ratelimit-remaining": "0"}, None),
    ],
)
async def test_rate_limit_that_is_said_by_403_is_one(headers: dict[str, str], seconds: float | None) -> None:
    error = await refused("github", body({"message": "API rate limit exceeded"}, 403, **headers), SetClock())

    assert (error.kind, error.code, error.retry_after) == (TRANSIENT, "rate_limited", seconds)
    assert (error.answered, error.outcome_unknown) == (True, False)


@pytest.mark.parametrize("headers", [{}, {"x-ratelimit-remaining": "59", "x-ratelimit-reset": "1800000090"}])
async def test_403_within_the_quota_is_no_rate_limit(headers: dict[str, str]) -> None:
    error = await refused("github", body({"message": "Forbidden"}, 403, **headers), SetClock())

    assert (error.kind, error.code, error.retry_after) == (TRANSIENT, "unreadable_http_403", None)


async def test_rate_limit_that_is_said_by_403_opens_the_breaker() -> None:
    edge = Edge()
    edge.answer(TOKEN_ENDPOINTS["github"], body({}, 403, **{"retry-after": "60"}))
    oauth = client(edge)

    codes = []
    for _ in range(6):
        with pytest.raises(ProviderCallError) as caught:
            await oauth.refresh(built_in("github"), refresh_token="refresh-1")
        codes.append(caught.value.code)

    assert codes == ["rate_limited"] * 5 + ["breaker_open"]
    assert caught.value.retry_after == 60


@pytest.mark.parametrize(
    ("failure", "code", "outcome_unknown"),
    [
        (httpx.ConnectError("x"), "connect_error", False),
        (httpx.ConnectTimeout("x"), "connect_timeout", False),
        (httpx.ReadTimeout("x"), "read_timeout", True),
        (httpx.RemoteProtocolError("x"), "remote_protocol_error", True),
        (httpx.DecodingError("x"), "decoding_error", True),
    ],
)
async def test_failure_without_an_answer_is_transient(failure: Exception, code: str, *, outcome_unknown: bool) -> None:
    error = await refused("google", failure)

    assert (error.kind, error.code, error.answered) == (TRANSIENT, code, False)
    assert error.outcome_unknown is outcome_unknown


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("7", 7.0),
        ("Fri, 15 Jan 2027 08:01:00 GMT", 60.0),
        ("Fri, 15 Jan 2027 07:59:00 GMT", 0.0),
        ("soon", None),
        ("-1", None),
        ("9" * 400, None),
        ("\u0667", None),
        ("Fri, 99 Jan 99999 99:99:99 GMT", None),
        ("Mon, 01 Jan 99999999999999999999 00:00:00 GMT", None),
    ],
)
async def test_retry_after_is_read_in_both_forms(header: str, seconds: float | None) -> None:
    reply = httpx.Response(429, headers=[(b"retry-after", header.encode())], content=b"{}")

    error = await refused("google", reply, SetClock())

    assert error.retry_after == seconds


@pytest.mark.parametrize("code", ["<script>alert(1)</script>", "two words", "x" * 65, "", "\x00", "\ud800"])
async def test_code_that_is_no_word_is_not_passed_on(code: str) -> None:
    error = await refused("google", body({"error": code}, 400))

    assert (error.kind, error.code) == (UNKNOWN, "unknown_error")
