"""Reuse of tokens by the clients: which are handed out again, for which requests and for how long; and options and
scopes that are refused."""

import pytest

from services.auth_client import ClientOptions, Token, TokenError, TokenRequest
from services.auth_client.exchange import Exchange, Post
from services.auth_client.memory import TokenMemory
from services.auth_client.tests.conftest import EitherClient, MakeClient, ManualClock
from services.auth_client.tests.service_stand_in import Reply, ServiceStandIn, token_document
from services.auth_client.wire import GET_PATH, REFRESH_PATH, Answer, outcome_of

REQUEST = TokenRequest("user_ada", "google")


async def test_same_question_is_answered_from_memory(client: EitherClient, service: ServiceStandIn) -> None:
    first = await client.get(scopes=["email", "calendar.read"])
    again = await client.get(scopes=("calendar.read", "email", "email"))

    assert again.access_token == first.access_token
    assert len(service.received) == 1


@pytest.mark.parametrize(
    "other",
    [
        {"user_id": "user_bob"},
        {"provider": "github"},
        {"scopes": ["email"]},
        {"account": "1234"},
        {"reason": "another purpose"},
        {"min_ttl_seconds": 3600},
    ],
)
async def test_other_question_is_asked(client: EitherClient, service: ServiceStandIn, other: dict[str, object]) -> None:
    await client.get()
    await client.get(**other)  # type: ignore[arg-type]  # parametrised keyword arguments

    assert len(service.received) == 2


async def test_reuse_that_is_switched_off_asks_each_time(make_client: MakeClient, service: ServiceStandIn) -> None:
    client = make_client(ClientOptions(max_reuse_seconds=0))

    await client.get()
    await client.get()

    assert len(service.received) == 2


async def test_token_that_ends_within_the_margin_is_not_reused(client: EitherClient, service: ServiceStandIn) -> None:
    service.replies = [Reply(body=token_document(expires_in=60))]

    await client.get()
    await client.get()

    assert len(service.received) == 2


async def test_refusal_is_not_remembered(client: EitherClient, service: ServiceStandIn) -> None:
    service.replies = [Reply.problem("not_connected", 404), Reply()]

    with pytest.raises(TokenError):
        await client.get()
    token = await client.get()

    assert token.provider == "google"


async def test_batch_asks_only_for_what_is_not_remembered(client: EitherClient, service: ServiceStandIn) -> None:
    item = {"token": token_document(access_token="from-the-batch"), "problem": None}
    service.replies = [Reply(), Reply(body={"items": [item]})]
    await client.get("user_a")

    await client.get_many([TokenRequest("user_a", "google"), TokenRequest("user_b", "google")])
    later = await client.get("user_b")

    assert [it["user_id"] for it in service.received[1].body["items"]] == ["user_b"]
    assert later.access_token == "from-the-batch"
    assert len(service.received) == 2


async def test_forgotten_user_is_asked_for_again_and_others_are_not(
    client: EitherClient, service: ServiceStandIn
) -> None:
    for user in ("user_ada", "user_bob"):
        await client.get(user)
        await client.get(user, "github")

    client.client.forget("user_ada", "google")
    await client.get("user_bob")
    await client.get("user_ada", "github")
    await client.get("user_ada")
    client.client.forget("user_bob")
    await client.get("user_bob", "github")

    asked = [(it.body["user_id"], it.body["provider"]) for it in service.received[4:]]
    assert asked == [("user_ada", "google"), ("user_bob", "github")]


async def test_refresh_forces_and_replaces_what_is_remembered(client: EitherClient, service: ServiceStandIn) -> None:
    service.replies = [Reply(), Reply(), Reply(body=token_document(access_token="new", refreshed=True)), Reply()]
    await client.get()
    await client.get(scopes=["email"])

    refreshed = await client.refresh()
    after = await client.get()
    await client.get(scopes=["email"])

    assert [it.path for it in service.received[2:]] == ["/internal/tokens/refresh", "/internal/tokens/get"]
    assert refreshed.access_token == after.access_token == "new"
    assert service.received[3].body["scopes"] == ["email"]


async def test_refresh_of_a_token_that_was_replaced_already_asks_nobody(
    client: EitherClient, service: ServiceStandIn
) -> None:
    service.replies = [Reply(), Reply(body=token_document(access_token="new"))]
    rejected = await client.get()

    first = await client.refresh(rejected=rejected)
    second = await client.refresh(rejected=rejected)
    third = await client.refresh(rejected=second)

    assert first.access_token == second.access_token == third.access_token == "new"
    assert [it.path for it in service.received[1:]] == ["/internal/tokens/refresh"] * 2


def test_token_ages_by_the_monotonic_clock_since_it_was_asked_for(clock: ManualClock) -> None:
    exchange = Exchange(ClientOptions(max_reuse_seconds=4000), clock)
    conversation = exchange.converse(GET_PATH, [REQUEST])
    next(conversation)
    clock.now += 5
    with pytest.raises(StopIteration) as end:
        conversation.send(_answer())
    clock.now += 100

    remembered = exchange.memory.recall(REQUEST)

    assert end.value.value[REQUEST].expires_in == 3595
    assert remembered is not None
    assert remembered.expires_in == 3495


@pytest.mark.parametrize(
    ("options", "document", "reused_at", "asked_at"),
    [
        ({}, {}, 59.9, 60.0),
        ({"max_reuse_seconds": 9000}, {}, 3539.0, 3540.0),
        ({"max_reuse_seconds": 9000, "reuse_margin_seconds": 600}, {}, 2999.0, 3000.0),
        ({"max_reuse_seconds": 9000}, {"expires_in": None, "expires_at": None}, 59.9, 60.0),
        ({"max_reuse_seconds": 10}, {"expires_in": None, "expires_at": None}, 9.9, 10.0),
    ],
)
def test_reuse_ends_with_its_time_or_with_the_margin(
    clock: ManualClock, options: dict[str, float], document: dict[str, object], reused_at: float, asked_at: float
) -> None:
    memory = TokenMemory(ClientOptions(**options), clock)  # type: ignore[arg-type]  # parametrised keyword arguments
    memory.remember(REQUEST, _token(**document), sent_at=clock.now, generation=0)
    sent_at = clock.now

    clock.now = sent_at + reused_at
    before = memory.recall(REQUEST)
    clock.now = sent_at + asked_at
    after = memory.recall(REQUEST)

    assert before is not None
    assert after is None


def test_memory_is_bounded_and_drops_what_was_used_longest_ago(clock: ManualClock) -> None:
    memory = TokenMemory(ClientOptions(max_remembered=2), clock)
    users = [TokenRequest(f"user_{name}", "google") for name in "abc"]

    memory.remember(users[0], _token(), sent_at=clock.now, generation=0)
    memory.remember(users[1], _token(), sent_at=clock.now, generation=0)
    memory.recall(users[0])
    memory.remember(users[2], _token(), sent_at=clock.now, generation=0)

    assert [memory.recall(user) is not None for user in users] == [True, False, True]


def test_answer_to_a_question_from_before_forgetting_is_not_remembered(clock: ManualClock) -> None:
    exchange = Exchange(ClientOptions(), clock)
    conversation = exchange.converse(GET_PATH, [REQUEST])
    asked_before = exchange.read(REQUEST)
    next(conversation)

    exchange.memory.forget("user_ada")
    with pytest.raises(StopIteration):
        conversation.send(_answer())

    assert exchange.memory.recall(REQUEST) is None
    assert exchange.read(REQUEST) != asked_before


def test_refresh_that_began_before_forgetting_is_not_remembered(clock: ManualClock) -> None:
    exchange = Exchange(ClientOptions(), clock)
    refresh = exchange.converse(REFRESH_PATH, [REQUEST])
    next(refresh)

    exchange.memory.forget("user_ada")
    with pytest.raises(StopIteration):
        refresh.send(_answer(access_token="new"))

    assert exchange.memory.recall(REQUEST) is None


def test_token_that_was_read_while_a_refresh_was_under_way_is_not_remembered(clock: ManualClock) -> None:
    exchange = Exchange(ClientOptions(), clock)
    narrow = TokenRequest("user_ada", "google", ["email"])
    refresh, read = exchange.converse(REFRESH_PATH, [REQUEST]), exchange.converse(GET_PATH, [narrow])

    assert isinstance(next(refresh), Post)
    next(read)
    with pytest.raises(StopIteration):
        refresh.send(_answer(access_token="new"))
    with pytest.raises(StopIteration):
        read.send(_answer())

    assert exchange.memory.recall(narrow) is None
    assert exchange.memory.recall(REQUEST) == _token(access_token="new")


def test_token_is_not_handed_out_again_from_the_moment_that_a_refresh_begins(clock: ManualClock) -> None:
    exchange = Exchange(ClientOptions(), clock)
    exchange.memory.remember(REQUEST, _token(), sent_at=clock.now, generation=0)

    next(exchange.converse(REFRESH_PATH, [REQUEST]))

    assert exchange.memory.recall(REQUEST) is None


@pytest.mark.parametrize("wrong", [{"timeout_seconds": 0}, {"max_attempts": 0}, {"max_reuse_seconds": -1}])
def test_options_that_make_no_sense_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        ClientOptions(**wrong)


def test_one_text_is_no_list_of_scopes() -> None:
    with pytest.raises(TypeError, match="list of scopes"):
        TokenRequest("user_ada", "google", "email")


def _answer(**changes: object) -> Answer:
    return Reply(body=token_document(**changes)).as_answer()


def _token(**changes: object) -> Token:
    outcome = outcome_of(_answer(**changes))
    assert isinstance(outcome, Token)
    return outcome
