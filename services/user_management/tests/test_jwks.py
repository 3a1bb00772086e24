"""Tests of the fetches of the issuer's keys: one serves all callers, tokens with unknown key ids cause few and forged
signatures none, and known keys outlast an outage; and of keys that are unfit, also pinned ones."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from services.sandbox.app import create_app as create_sandbox_app
from services.sandbox.signing import SigningKey, base64url, signing_key
from services.sandbox.state import Sandbox
from services.user_management.container import Container
from services.user_management.exceptions import (
    KeySetUnavailableError,
    RetryLaterError,
    StartupError,
    UnauthenticatedError,
)
from services.user_management.http_client import FETCH_SECONDS, HttpClient, create_http_client, fetch_json
from services.user_management.security.jwks import (
    COOL_DOWN_SECONDS,
    FRESH_SECONDS,
    MAX_ABSENT_KEY_IDS,
    NEGATIVE_SECONDS,
    STALE_SECONDS,
    PinnedKey,
    RemoteKeySet,
    SigningKeys,
    parse_key_set,
)
from services.user_management.security.jwt import SessionVerifier
from services.user_management.settings import Settings
from services.user_management.tests.clocks import SetClock

OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
SHORT_KEY = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505 - weak on purpose
SMALL_EXPONENT_KEY = rsa.generate_private_key(public_exponent=3, key_size=2048)


class Publisher:
    """The issuer's key endpoint: counts fetches, can be down, can be slow."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)
        self.fetches = 0
        self.down = False
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def __call__(self) -> dict[str, Any]:
        self.fetches += 1
        await self.may_answer.wait()
        if self.down:
            raise RetryLaterError("down")
        return {"keys": [key.jwk for key in self.keys]}


async def _settled() -> None:
    """Let a background fetch of the keys run to its end."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
def clock() -> SetClock:
    return SetClock(time.time())


@pytest.fixture(scope="module")
def first() -> SigningKey:
    return SigningKey("first", rsa.generate_private_key(public_exponent=65537, key_size=2048))


@pytest.fixture
async def sandbox_http(sandbox: Sandbox) -> AsyncIterator[HttpClient]:
    async with create_http_client(httpx.ASGITransport(app=create_sandbox_app(sandbox))) as http:
        yield http


def _verifier(keys: SigningKeys, sandbox: Sandbox, clock: SetClock) -> SessionVerifier:
    clerk = sandbox.clerk
    return SessionVerifier(keys, issuer=clerk.issuer, authorized_parties=[clerk.frontend_origin], clock=clock)


async def test_cold_verifications_at_once_fetch_once(
    sandbox: Sandbox, sandbox_http: HttpClient, clock: SetClock
) -> None:
    keys = RemoteKeySet(lambda: fetch_json(sandbox_http, sandbox.clerk.jwks_url), clock)
    verifier = _verifier(keys, sandbox, clock)
    tokens = [sandbox.clerk.session_token(f"user_{number}") for number in range(50)]

    claims = await asyncio.gather(*(verifier.verify(token) for token in tokens))

    assert [claim.subject for claim in claims] == [f"user_{number}" for number in range(50)]
    assert sandbox.ledger.count(party="clerk", operation="jwks") == 1


async def test_thousand_tokens_with_unknown_key_ids_fetch_once(
    sandbox: Sandbox, sandbox_http: HttpClient, clock: SetClock
) -> None:
    keys = RemoteKeySet(lambda: fetch_json(sandbox_http, sandbox.clerk.jwks_url), clock)
    verifier = _verifier(keys, sandbox, clock)
    await verifier.verify(sandbox.clerk.session_token("user_1"))
    sandbox.ledger.clear()
    clock.seconds += COOL_DOWN_SECONDS
    _, _, rest = sandbox.clerk.session_token("user_1").partition(".")
    headers = [base64url(json.dumps({"alg": "RS256", "kid": f"ins_forged{number}"}).encode()) for number in range(1000)]

    refused = await asyncio.gather(*(verifier.verify(f"{header}.{rest}") for header in headers), return_exceptions=True)

    assert {type(error) for error in refused} == {UnauthenticatedError}
    assert sandbox.ledger.count(party="clerk", operation="jwks") == 1


async def test_absent_key_id_is_remembered_beyond_the_cool_down(clock: SetClock, first: SigningKey) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    await keys.find("absent")
    clock.seconds += NEGATIVE_SECONDS - 1

    remembered = await keys.find("absent")
    fetches = publisher.fetches
    clock.seconds += 1
    await keys.find("absent")

    assert remembered is None
    assert fetches == 1
    assert publisher.fetches == 2


async def test_memory_of_absent_key_ids_is_bounded(clock: SetClock, first: SigningKey) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    for number in range(MAX_ABSENT_KEY_IDS + 1):
        await keys.find(f"absent{number}")
    clock.seconds += COOL_DOWN_SECONDS

    await keys.find(f"absent{MAX_ABSENT_KEY_IDS}")
    fetches_for_newest = publisher.fetches
    await keys.find("absent0")

    assert fetches_for_newest == 1
    assert publisher.fetches == 2


async def test_forged_signature_under_a_known_key_id_fetches_and_evicts_nothing(
    sandbox: Sandbox, sandbox_http: HttpClient, clock: SetClock
) -> None:
    keys = RemoteKeySet(lambda: fetch_json(sandbox_http, sandbox.clerk.jwks_url), clock)
    verifier = _verifier(keys, sandbox, clock)
    await verifier.verify(sandbox.clerk.session_token("user_1"))
    clock.seconds += COOL_DOWN_SECONDS + 1

    for _ in range(20):
        with pytest.raises(UnauthenticatedError):
            await verifier.verify(sandbox.clerk.session_token("user_1", key=OTHER_KEY))
    claims = await verifier.verify(sandbox.clerk.session_token("user_1"))

    assert claims.subject == "user_1"
    assert sandbox.ledger.count(party="clerk", operation="jwks") == 1


async def test_new_key_works_after_the_cool_down(clock: SetClock, first: SigningKey) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    await keys.find("first")
    publisher.keys.append(SigningKey("second", OTHER_KEY))
    clock.seconds += COOL_DOWN_SECONDS

    found = await keys.find("second")

    assert found is not None
    assert publisher.fetches == 2


@pytest.mark.parametrize("forged_per_second", [0, 20])
async def test_new_key_that_was_asked_for_too_early_works_within_a_minute(
    clock: SetClock, first: SigningKey, forged_per_second: int
) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    await keys.find("second")
    clock.seconds += 1
    publisher.keys.append(SigningKey("second", OTHER_KEY))
    waited = 0

    while await keys.find("second") is None:
        for number in range(forged_per_second):
            await keys.find(f"forged{waited}-{number}")
        waited += 1
        clock.seconds += 1

    assert waited <= 60 - 2 * FETCH_SECONDS
    assert publisher.fetches == 2


async def test_key_id_asked_for_within_the_cool_down_is_absent_as_of_the_last_fetch(
    clock: SetClock, first: SigningKey
) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    await keys.find("first")
    clock.seconds += COOL_DOWN_SECONDS - 1
    early = await keys.find("second")
    publisher.keys.append(SigningKey("second", OTHER_KEY))

    clock.seconds += NEGATIVE_SECONDS - (COOL_DOWN_SECONDS - 1)
    late = await keys.find("second")

    assert early is None
    assert late is not None


async def test_flood_of_unknown_key_ids_never_fetches_more_than_twice_a_minute(
    clock: SetClock, first: SigningKey
) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)

    for second in range(600):
        await asyncio.gather(*(keys.find(f"forged{second}-{number}") for number in range(5)))
        assert await keys.find("first") is not None
        clock.seconds += 1

    assert publisher.fetches == 600 / COOL_DOWN_SECONDS


async def test_stale_set_is_served_while_the_issuer_is_down_for_a_day(clock: SetClock, first: SigningKey) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    await keys.find("first")
    publisher.down = True

    for _ in range(3):
        clock.seconds += FRESH_SECONDS + COOL_DOWN_SECONDS
        assert await keys.find("first") is not None
        await _settled()
    clock.seconds += STALE_SECONDS

    for _ in range(2):
        with pytest.raises(KeySetUnavailableError):
            await keys.find("first")
    assert publisher.fetches == 5


async def test_known_key_never_waits_for_a_stalled_issuer(clock: SetClock, first: SigningKey) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    await keys.find("first")
    clock.seconds += FRESH_SECONDS + 1
    publisher.may_answer.clear()

    async with asyncio.timeout(1):
        found = [await keys.find("first") for _ in range(5)]

    await _settled()
    assert None not in found
    assert publisher.fetches == 2
    publisher.may_answer.set()
    await _settled()


async def test_withdrawn_key_stops_working_with_the_next_fetch(clock: SetClock, first: SigningKey) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    await keys.find("first")
    publisher.keys = [SigningKey("second", OTHER_KEY)]
    clock.seconds += FRESH_SECONDS + 1

    served = await keys.find("first")
    await _settled()
    refused = await keys.find("first")

    assert served is not None
    assert refused is None


async def test_issuer_that_never_answered_is_unavailable_not_a_refusal(clock: SetClock) -> None:
    publisher = Publisher()
    publisher.down = True
    keys = RemoteKeySet(publisher, clock)

    for _ in range(3):
        with pytest.raises(KeySetUnavailableError):
            await keys.find("first")

    assert publisher.fetches == 1


async def test_caller_who_leaves_does_not_end_the_fetch_for_others(clock: SetClock, first: SigningKey) -> None:
    publisher = Publisher(first)
    publisher.may_answer.clear()
    keys = RemoteKeySet(publisher, clock)
    leaver, stayer = asyncio.create_task(keys.find("first")), asyncio.create_task(keys.find("first"))
    await _settled()

    leaver.cancel()
    publisher.may_answer.set()

    assert await stayer is not None
    assert publisher.fetches == 1


@pytest.mark.parametrize(
    "change",
    [
        {"use": "enc"},
        {"key_ops": ["sign"]},
        {"key_ops": "verify"},
        {"alg": "RS512"},
        {"kty": "EC"},
        {"kid": None},
        {"kid": 7},
        {"n": None},
        {"n": "AQAB"},
        {"n": 7},
        {"n": "A" * 5000},
        {"e": "!"},
        {"e": "AQAB="},
        {"e": "AQAC"},
        {"e": "AQ"},
        {"e": "Aw"},
        {"e": "AQAA"},
        {"e": base64url((2**264 + 1).to_bytes(34, "big"))},
        {"key_ops": []},
        {"use": None},
        {"alg": None},
        {"d": "AQAB"},
    ],
)
def test_key_that_may_not_verify_is_passed_over(first: SigningKey, change: dict[str, Any]) -> None:
    good = SigningKey("good", OTHER_KEY).jwk

    keys = parse_key_set({"keys": [{**first.jwk, **change}, "nonsense", good]})

    assert set(keys) == {"good"}


def test_key_id_that_names_two_keys_names_none(first: SigningKey) -> None:
    twin = {**SigningKey("first", OTHER_KEY).jwk}

    keys = parse_key_set({"keys": [first.jwk, twin, SigningKey("good", OTHER_KEY).jwk]})

    assert set(keys) == {"good"}


@pytest.mark.parametrize("document", [{}, {"keys": {}}, {"keys": []}, {"keys": [SigningKey("k", SHORT_KEY).jwk]}])
def test_set_without_a_usable_key_is_an_error(document: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"not a JWK set|no usable"):
        parse_key_set(document)


async def test_pinned_key_verifies_without_any_fetch(
    settings: Settings, sandbox: Sandbox, sandbox_http: HttpClient
) -> None:
    pem = sandbox.clerk.public_key_pem.replace("\n", "\\n")
    pinned = settings.model_copy(update={"clerk": settings.clerk.model_copy(update={"jwt_key": pem})})
    container = Container(pinned, http=sandbox_http)

    claims = await container.identity.sessions.verify(sandbox.clerk.session_token("user_1"))

    assert claims.subject == "user_1"
    with pytest.raises(UnauthenticatedError):
        await container.identity.sessions.verify(sandbox.clerk.session_token("user_1", key=OTHER_KEY))
    assert sandbox.ledger.count(party="clerk") == 0


@pytest.mark.parametrize("key", [SHORT_KEY, SMALL_EXPONENT_KEY])
def test_pinned_key_that_is_weak_stops_the_start(key: rsa.RSAPrivateKey) -> None:
    with pytest.raises(StartupError, match="CLERK_JWT_KEY"):
        PinnedKey(SigningKey("k", key).public_key_pem)


def test_pinned_key_that_is_no_key_stops_the_start() -> None:
    with pytest.raises(StartupError, match="CLERK_JWT_KEY"):
        PinnedKey("-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----")


async def test_process_that_nobody_asks_learns_of_a_withdrawn_key(
    first: SigningKey, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher(first)
    keys = RemoteKeySet(publisher, clock)
    assert await keys.find(first.kid) is not None
    publisher.keys = [signing_key("clerk", 9, kid_prefix="ins_")]
    clock.seconds += COOL_DOWN_SECONDS + 1
    monkeypatch.setattr("services.user_management.security.jwks.FRESH_SECONDS", 0.0)

    watch = asyncio.create_task(keys.keep_fresh())
    await _settled()
    watch.cancel()

    assert await keys.find(first.kid) is None


@pytest.mark.parametrize("url", ["https://clerk.example.com/\u0007", "https://xn--/", "https://[::1/"])
async def test_address_that_is_none_is_an_outage_not_a_crash(url: str, clock: SetClock) -> None:
    async with create_http_client() as http:
        keys = RemoteKeySet(lambda: fetch_json(http, url), clock)

        with pytest.raises(KeySetUnavailableError):
            await keys.find("any")


async def test_answer_whose_encoding_is_broken_is_an_outage_not_a_crash() -> None:
    broken = httpx.MockTransport(
        lambda _: httpx.Response(200, headers={"Content-Encoding": "gzip"}, stream=httpx.ByteStream(b"not gzip"))
    )

    async with create_http_client(broken) as http:
        with pytest.raises(RetryLaterError):
            await fetch_json(http, "https://clerk.example.com/.well-known/jwks.json")
