"""Retries by the token clients, which hide a restart of the service from callers, with their pauses and deadline; and
the addresses and keys that a client accepts."""

import json
from typing import Any

import httpx
import pytest

from services.auth_client import ClientOptions, TokenClient, TokenError, TokenRequest, TryLaterError
from services.auth_client.errors import SERVICE_UNREACHABLE, Problem
from services.auth_client.exchange import Conversation, Exchange, Pause, Post
from services.auth_client.tests.conftest import EitherClient, MakeClient, ManualClock
from services.auth_client.tests.service_stand_in import (
    KEY,
    RESET,
    TOKEN_TEXT,
    Reply,
    ServiceStandIn,
    problem_document,
    token_document,
)
from services.auth_client.wire import BATCH_PATH, GET_PATH, Answer, unreachable

pytestmark = pytest.mark.slow

DRAINING = Reply.problem("database_unavailable", 503, headers={"Retry-After": "0"})
GATEWAY = Reply(502, "<html>no upstream</html>")
REQUEST = TokenRequest("user_ada", "google")
UNREACHABLE = Problem(SERVICE_UNREACHABLE, "no answer")


def _put_off(seconds: int) -> dict[str, Any]:
    return {"token": None, "problem": problem_document("provider_unavailable", 503, retry_after=seconds)}


def _batch(*items: dict[str, Any]) -> Answer:
    return Answer(200, json.dumps({"items": items}).encode(), None)


async def test_restart_that_refuses_resets_and_answers_503_is_not_seen(
    make_client: MakeClient, stopped_service: ServiceStandIn
) -> None:
    attempts = []

    def listen_at_the_second_attempt() -> None:
        attempts.append("attempt")
        if len(attempts) == 2:
            stopped_service.listen()

    stopped_service.replies = [RESET, DRAINING, Reply()]
    client = make_client(before_request=listen_at_the_second_attempt)

    token = await client.get()

    assert token.access_token == TOKEN_TEXT
    assert (len(attempts), len(stopped_service.received)) == (4, 3)


@pytest.mark.parametrize(
    "reply",
    [
        DRAINING,
        GATEWAY,
        RESET,
        Reply(504, ""),
        Reply.problem("rate_limited", 429, headers={"Retry-After": "0"}),
        Reply.problem("key_unavailable", 503),
        Reply.problem("internal_error", 500),
    ],
)
async def test_temporary_failure_is_retried_four_times_and_then_told(
    client: EitherClient, service: ServiceStandIn, reply: Reply
) -> None:
    service.replies = [reply]

    with pytest.raises(TryLaterError):
        await client.get()

    assert len(service.received) == 4


async def test_service_that_never_answers_times_out(make_client: MakeClient, service: ServiceStandIn) -> None:
    client = make_client(ClientOptions(timeout_seconds=0.5, backoff_seconds=0, max_attempts=2))
    service.replies = [Reply(held=True)]

    with pytest.raises(TryLaterError) as raised:
        await client.get()

    assert (raised.value.code, raised.value.status) == ("service_unreachable", None)
    assert len(service.received) == 2


async def test_batch_asks_again_only_for_what_may_still_come(client: EitherClient, service: ServiceStandIn) -> None:
    away = {"token": None, "problem": problem_document("provider_unavailable", 503, retry_after=0)}
    there = {"token": token_document(), "problem": None}
    revoked = {"token": None, "problem": problem_document("revoked", 409)}
    service.replies = [Reply(body={"items": [there, away, revoked]}), Reply(body={"items": [there]})]

    outcomes = await client.get_many([TokenRequest(f"user_{name}", "google") for name in "abc"])

    assert [[item["user_id"] for item in request.body["items"]] for request in service.received] == [
        ["user_a", "user_b", "user_c"],
        ["user_b"],
    ]
    assert [it.code if isinstance(it, TokenError) else it.access_token for it in outcomes] == [
        TOKEN_TEXT,
        TOKEN_TEXT,
        "revoked",
    ]


def test_failure_to_send_is_told_by_its_kind_alone() -> None:
    problem = unreachable(httpx.LocalProtocolError(f"Illegal header value b'Bearer {KEY}'"))

    assert problem.detail == "the user management service gave no answer: LocalProtocolError"


def test_pauses_without_a_retry_after_grow_fourfold_with_jitter(clock: ManualClock) -> None:
    pauses = _pauses(Exchange(ClientOptions(), clock).converse(GET_PATH, [REQUEST]), UNREACHABLE)

    assert len(pauses) == 3
    assert all(full / 2 <= pause <= full for pause, full in zip(pauses, (0.25, 1.0, 4.0), strict=True))


def test_retry_after_is_waited_for_and_a_little_longer(clock: ManualClock) -> None:
    answer = Answer(503, b'{"type": "database_unavailable"}', "3")

    pauses = _pauses(Exchange(ClientOptions(), clock).converse(GET_PATH, [REQUEST]), answer)

    assert len(pauses) == 3
    assert all(3 <= pause <= 3.25 for pause in pauses)


@pytest.mark.parametrize("told", ["Sat, 21 Nov 2026 10:00:00 GMT", "-5", "soon", ""])
def test_retry_after_that_is_no_number_of_seconds_is_passed_over(clock: ManualClock, told: str) -> None:
    answer = Answer(503, b'{"type": "database_unavailable"}', told)

    pauses = _pauses(Exchange(ClientOptions(), clock).converse(GET_PATH, [REQUEST]), answer)

    assert pauses[0] <= 0.25


def test_retry_after_beyond_the_deadline_is_given_up_at_once(clock: ManualClock) -> None:
    answer = Answer(503, b'{"type": "database_unavailable"}', "15")

    pauses = _pauses(Exchange(ClientOptions(), clock).converse(GET_PATH, [REQUEST]), answer)

    assert pauses == []


def test_item_that_is_put_off_for_long_keeps_no_other_from_its_next_attempt(clock: ManualClock) -> None:
    requests = [TokenRequest(f"user_{name}", "google") for name in "abc"]
    conversation = Exchange(ClientOptions(), clock).converse(BATCH_PATH, requests)

    next(conversation)
    pause = conversation.send(_batch(_put_off(1), _put_off(300), {"token": token_document(), "problem": None}))
    again = next(conversation)
    with pytest.raises(StopIteration) as ended:
        conversation.send(_batch({"token": token_document(), "problem": None}))

    assert isinstance(pause, Pause)
    assert 1 <= pause.seconds <= 1.25
    assert isinstance(again, Post)
    assert [item["user_id"] for item in json.loads(again.body)["items"]] == ["user_a"]
    outcomes = ended.value.value
    assert [getattr(outcomes[request], "retry_after", "token") for request in requests] == ["token", 300, "token"]


def test_chunk_for_which_no_time_is_left_is_not_sent(clock: ManualClock) -> None:
    requests = [TokenRequest(f"user_{number}", "google") for number in range(101)]
    conversation = Exchange(ClientOptions(), clock).converse(BATCH_PATH, requests)

    next(conversation)
    clock.now += 15
    with pytest.raises(StopIteration) as ended:
        conversation.send(_batch(*[{"token": token_document(), "problem": None}] * 100))

    outcomes = ended.value.value
    assert list(outcomes) == requests
    assert (outcomes[requests[-1]].code, outcomes[requests[-1]].status) == (SERVICE_UNREACHABLE, None)


def test_silence_at_the_end_does_not_hide_what_was_said_before(clock: ManualClock) -> None:
    conversation = Exchange(ClientOptions(), clock).converse(GET_PATH, [REQUEST])

    next(conversation)
    conversation.send(Answer(503, b'{"type": "provider_unavailable", "request_id": "r1"}', "14"))
    clock.now += 14.5
    next(conversation)
    with pytest.raises(StopIteration) as ended:
        conversation.send(UNREACHABLE)

    assert (ended.value.value[REQUEST].code, ended.value.value[REQUEST].request_id) == ("provider_unavailable", "r1")


def test_attempts_get_no_more_than_the_time_that_is_left(clock: ManualClock) -> None:
    conversation = Exchange(ClientOptions(backoff_seconds=0), clock).converse(GET_PATH, [REQUEST])

    first = next(conversation)
    clock.now += 10
    pause = conversation.send(UNREACHABLE)
    second = next(conversation)
    clock.now += 5

    assert isinstance(first, Post)
    assert isinstance(second, Post)
    assert (first.timeout_seconds, pause, second.timeout_seconds) == (10.0, Pause(0.0), 5.0)
    with pytest.raises(StopIteration):
        conversation.send(UNREACHABLE)


@pytest.mark.parametrize("key", ["", "not-a-key", f"{KEY}\n", f"Bearer {KEY}"])
def test_key_of_another_form_is_refused_without_repeating_it(key: str) -> None:
    with pytest.raises(ValueError, match="ums_<id>_<secret>") as raised:
        TokenClient("http://users.example.com", key)

    assert not key.strip() or key.strip() not in str(raised.value)


@pytest.mark.parametrize(
    "url", ["", "http://h:x", "users.example.com", "ftp://users.example.com", "http://a:b@users.example.com"]
)
def test_url_that_is_no_service_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        TokenClient(url, KEY)


def test_base_url_may_have_a_path() -> None:
    paths = []

    def answer(request: httpx.Request) -> httpx.Response:
        paths.append(str(request.url))
        return httpx.Response(200, json=token_document())

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as http,
        TokenClient("https://gateway.example.com/users-service/", KEY, http=http) as client,
    ):
        client.get("user_ada", "google")

    assert paths == ["https://gateway.example.com/users-service/internal/tokens/get"]


def _pauses(conversation: Conversation, answer: Answer | Problem) -> list[float]:
    """Return the seconds of each pause in a conversation in which every attempt ends with `answer`."""
    steps: list[Post | Pause] = [next(conversation)]
    while True:
        try:
            steps.append(conversation.send(answer if isinstance(steps[-1], Post) else None))
        except StopIteration:
            return [step.seconds for step in steps if isinstance(step, Pause)]
