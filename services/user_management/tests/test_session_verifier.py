"""Tests of which session tokens are accepted, and what is read from them."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.sandbox.signing import base64url, sign_jws
from services.user_management.exceptions import SessionPendingError, UnauthenticatedError
from services.user_management.security.jws import MAX_TOKEN_CHARACTERS
from services.user_management.tests.clocks import NOW, SetClock
from services.user_management.tests.session_tokens import (
    ABSENT,
    CLAIMS,
    HEADER,
    ISSUER,
    ORIGIN,
    PRIVATE_KEY,
    OneKey,
    signed,
    token,
    verifier,
)

PAYLOAD = json.dumps(CLAIMS).encode()
HEADER_BYTES = json.dumps(HEADER).encode()
VALID = token()
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


async def test_valid_token_gives_its_claims() -> None:
    session = await verifier().verify(VALID)

    assert (session.issuer, session.subject, session.session_id) == (ISSUER, "user_1", "sess_1")
    assert session.impersonator is None
    assert session.organization is None
    assert session.factor_verification_age == (3, -1)
    assert session.claims == CLAIMS


@pytest.mark.parametrize("claim", ["exp", "iat", "nbf", "sub", "sid", "iss"])
@pytest.mark.parametrize("value", [ABSENT, None, True, "", "7\n", [], {}, -1, 10**400, 1e300])
async def test_required_claim_that_is_missing_or_of_another_type_is_refused(claim: str, value: Any) -> None:
    forged = token(**{claim: value})

    with pytest.raises(UnauthenticatedError):
        await verifier().verify(forged)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "1" * 5000, "01", "0x6b49d200"])
async def test_number_that_is_not_json_or_not_finite_is_refused(number: str) -> None:
    payload = PAYLOAD.replace(f'"exp": {NOW + 60}'.encode(), f'"exp": {number}'.encode())
    assert payload != PAYLOAD

    with pytest.raises(UnauthenticatedError):
        await verifier().verify(signed(HEADER_BYTES, payload))


@pytest.mark.parametrize(
    ("seconds", "accepted"), [(-60, True), (0, True), (4, True), (5, True), (5.001, False), (6, False)]
)
@pytest.mark.parametrize("claim", ["exp", "nbf", "iat"])
async def test_leeway_is_exactly_five_seconds(claim: str, seconds: float, accepted: bool) -> None:  # noqa: FBT001 - a case
    # `seconds` is how far the claim lies on the wrong side of now.
    moment = NOW - seconds if claim == "exp" else NOW + seconds
    presented = token(**{claim: moment})

    if accepted:
        assert (await verifier().verify(presented)).subject == "user_1"
    else:
        with pytest.raises(UnauthenticatedError):
            await verifier().verify(presented)


async def test_token_runs_out_by_the_injected_clock() -> None:
    clock = SetClock(NOW + 65)
    checked = verifier(clock=clock)

    await checked.verify(VALID)
    clock.seconds += 1

    with pytest.raises(UnauthenticatedError):
        await checked.verify(VALID)


async def test_every_allowed_issuer_and_origin_is_accepted_and_no_other() -> None:
    checked = verifier(issuer=[ISSUER, "https://clerk.example.org"], authorized_parties=[ORIGIN, "https://b.example"])

    session = await checked.verify(token(iss="https://clerk.example.org", azp="https://b.example"))

    assert session.issuer == "https://clerk.example.org"
    for wrong in ({"iss": f"{ISSUER}/"}, {"iss": [ISSUER]}, {"iss": "https"}, {"azp": [ORIGIN]}, {"azp": "https"}):
        with pytest.raises(UnauthenticatedError):
            await checked.verify(token(**wrong))


async def test_absent_azp_is_refused_unless_the_setting_allows_it() -> None:
    absent, null = token(azp=ABSENT), token(azp=None)
    lenient = verifier(allow_missing_azp=True)

    assert (await lenient.verify(absent)).subject == "user_1"
    for checked, presented in ((verifier(), absent), (lenient, null), (lenient, token(azp="https://evil.example"))):
        with pytest.raises(UnauthenticatedError):
            await checked.verify(presented)


@pytest.mark.parametrize("audience", ["anything", [], None])
async def test_token_for_an_audience_is_refused(audience: Any) -> None:
    with pytest.raises(UnauthenticatedError):
        await verifier().verify(token(aud=audience))


@pytest.mark.parametrize("status", ["pending", "", None, "ACTIVE", 7])
async def test_session_that_is_not_active_is_pending(status: Any) -> None:
    with pytest.raises(SessionPendingError):
        await verifier().verify(token(sts=status))


async def test_pending_session_with_a_wrong_claim_is_refused_not_pending() -> None:
    with pytest.raises(UnauthenticatedError):
        await verifier().verify(token(sts="pending", azp="https://evil.example"))


async def test_token_of_version_1_without_status_is_accepted() -> None:
    session = await verifier().verify(token(sts=ABSENT, v=ABSENT, jti=ABSENT, fva=ABSENT))

    assert session.factor_verification_age is None


async def test_impersonator_is_read() -> None:
    session = await verifier().verify(token(act={"iss": "https://dashboard.clerk.com", "sid": "sess_2", "sub": "u2"}))

    assert session.impersonator == "u2"


@pytest.mark.parametrize(
    "actor", [None, False, "", "user_2", [], ["user_2"], {}, {"sub": ""}, {"sub": 7}, {"sid": "s"}]
)
async def test_impersonator_who_cannot_be_named_is_refused(actor: Any) -> None:
    with pytest.raises(UnauthenticatedError):
        await verifier().verify(token(act=actor))


@pytest.mark.parametrize("identifier", ["user_\u0000", "user_\ud800", "user_\u00e9", "user\n", "x" * 256])
@pytest.mark.parametrize("claim", ["sub", "sid"])
async def test_identifier_beyond_printable_ascii_is_refused(claim: str, identifier: str) -> None:
    with pytest.raises(UnauthenticatedError):
        await verifier().verify(token(**{claim: identifier}))


@pytest.mark.parametrize("ages", [None, [], [1], [1, 2, 3], [True, 1], ["1", 2], [-2, 0], "1,2", 7])
async def test_factor_verification_age_of_an_unknown_form_is_unsaid(ages: Any) -> None:
    assert (await verifier().verify(token(fva=ages))).factor_verification_age is None


@pytest.mark.parametrize("kind", [ABSENT, "JWT", "jwt", "Jwt"])
async def test_token_type_may_be_absent_or_jwt(kind: Any) -> None:
    session = await verifier().verify(
        token({"typ": kind, "unknown": {"members": ["are", "ignored"]}, "jku": "http://x"})
    )

    assert session.subject == "user_1"


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "at+jwt"},
        {"typ": "application/jwt"},
        {"typ": ""},
        {"typ": None},
        {"typ": ["JWT"]},
        {"cty": "JWT"},
        {"cty": None},
        {"crit": []},
        {"crit": ["exp"]},
        {"crit": None},
        {"b64": False, "crit": ["b64"]},
        {"b64": True},
        {"alg": "rs256"},
        {"alg": "RS384"},
        {"alg": "PS256"},
        {"alg": "HS256"},
        {"alg": "none"},
        {"alg": ["RS256"]},
        {"alg": None},
        {"alg": ABSENT},
        {"kid": None},
        {"kid": ""},
        {"kid": 7},
        {"kid": "k" * 256},
    ],
)
async def test_header_beyond_the_rule_is_refused_without_a_key_lookup(header: dict[str, Any]) -> None:
    keys = OneKey()

    with pytest.raises(UnauthenticatedError):
        await verifier(keys).verify(token(header))

    assert keys.lookups == 0


@pytest.mark.parametrize(
    ("header", "payload"),
    [
        (b'{"alg":"none",' + HEADER_BYTES[1:], PAYLOAD),
        (HEADER_BYTES[:-1] + b',"\\u0061lg":"RS256"}', PAYLOAD),
        (HEADER_BYTES, b'{"sub":"user_2",' + PAYLOAD[1:]),
        (HEADER_BYTES, PAYLOAD[:-1] + b',"act":{"sub":"a","sub":"b"}}'),
    ],
    ids=["header", "header-escaped", "payload", "payload-nested"],
)
async def test_member_named_twice_is_refused(header: bytes, payload: bytes) -> None:
    with pytest.raises(UnauthenticatedError):
        await verifier().verify(signed(header, payload))


@pytest.mark.parametrize("document", [b"", b"null", b"[]", b'"RS256"', b"7", b"{", b"\xff", b"[" * 4000, b"{}{}"])
async def test_header_or_payload_that_is_no_object_is_refused(document: bytes) -> None:
    for presented in (signed(document, PAYLOAD), signed(HEADER_BYTES, document)):
        with pytest.raises(UnauthenticatedError):
            await verifier().verify(presented)


@pytest.mark.parametrize(
    "credential",
    [
        "",
        ".",
        "..",
        "ak_2abcdefghijklmnopqrstuvwxyz",
        "oat_2abcdefghijklmnopqrstuvwxyz",
        "m2m_2abcdefghijklmnopqrstuvwxyz",
        "mt_2abcdefghijklmnopqrstuvwxyz",
        # RFC 7516 appendix A.2, shortened: five parts.
        "eyJhbGciOiJSU0ExXzUiLCJlbmMiOiJBMTI4Q0JDLUhTMjU2In0.UGhJT2c.AxY8DCtD.KDlTtXch.9hH0vgRf",
        f"{VALID}.{VALID.partition('.')[0]}",
        f"{VALID}.",
        VALID.rpartition(".")[0],
        f" {VALID}",
        f"{VALID}\n",
        f"{VALID}=",
        VALID.replace(".", "=.", 1),
        VALID.replace(".", "\u3002"),
        "\u0435" + VALID[1:],
        VALID + "A" * MAX_TOKEN_CHARACTERS,
        sign_jws({**HEADER, "alg": "none"}, CLAIMS, key=b"", algorithm="none") + "AAAA",
    ],
)
async def test_credential_of_another_kind_is_refused_without_a_key_lookup(credential: str) -> None:
    keys = OneKey()

    with pytest.raises(UnauthenticatedError):
        await verifier(keys).verify(credential)

    assert keys.lookups == 0


async def test_public_key_as_hmac_secret_is_refused() -> None:
    secret = base64url(PRIVATE_KEY.public_key().public_numbers().n.to_bytes(256, "big")).encode()

    with pytest.raises(UnauthenticatedError):
        await verifier().verify(sign_jws({**HEADER, "alg": "HS256"}, CLAIMS, key=secret, algorithm="HS256"))


async def test_every_other_spelling_of_the_last_character_is_refused() -> None:
    # Python's base64 ignores the bits that the last character of a segment has to spare.
    signature_end = VALID[-1]
    others = [letter for letter in ALPHABET if letter != signature_end]

    for letter in others:
        with pytest.raises(UnauthenticatedError):
            await verifier().verify(VALID[:-1] + letter)


@settings(max_examples=300, deadline=None)
@given(
    position=st.integers(0, len(VALID) - 1),
    replacement=st.one_of(st.sampled_from([*ALPHABET, ".", "="]), st.characters()),
)
async def test_token_with_one_character_changed_never_verifies(position: int, replacement: str) -> None:
    changed = VALID[:position] + replacement + VALID[position + 1 :]
    if changed == VALID:
        return

    with pytest.raises(UnauthenticatedError):
        await verifier().verify(changed)


@settings(max_examples=300, deadline=None)
@given(start=st.integers(0, len(VALID)), length=st.integers(0, 12), inserted=st.text(ALPHABET + ".=", max_size=8))
async def test_token_with_a_slice_replaced_never_verifies(start: int, length: int, inserted: str) -> None:
    changed = VALID[:start] + inserted + VALID[start + length :]
    if changed == VALID:
        return

    with pytest.raises(UnauthenticatedError):
        await verifier().verify(changed)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=8,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(changes=st.dictionaries(st.sampled_from([*CLAIMS, "aud", "act", "o", "fea", "org_id", "org_role"]), JSON))
async def test_signed_claims_of_any_form_raise_nothing_else(changes: dict[str, Any]) -> None:
    presented = token(**changes)

    try:
        session = await verifier().verify(presented)
    except (UnauthenticatedError, SessionPendingError):
        return

    assert session.issuer == ISSUER
    assert session.claims["azp"] == ORIGIN
    assert (session.impersonator is None) == ("act" not in changes)
