"""Callers that ask a token client the same at the same time share one request, and lose nothing if one of them is
cancelled or interrupted."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from services.auth_client import AsyncTokenClient, ClientOptions, NotAllowedError, Token, TokenClient, TryLaterError
from services.auth_client.exchange import Call
from services.auth_client.tests.conftest import QUICK
from services.auth_client.tests.service_stand_in import KEY, TOKEN_TEXT, Reply, ServiceStandIn, token_document

CALLERS = 20


@pytest.fixture
async def tasks_client(service: ServiceStandIn) -> AsyncIterator[AsyncTokenClient]:
    async with AsyncTokenClient(service.url, KEY, options=QUICK) as client:
        yield client


@pytest.fixture
def threads_client(service: ServiceStandIn) -> Iterator[TokenClient]:
    with TokenClient(service.url, KEY, options=QUICK) as client:
        yield client


async def test_tasks_that_ask_the_same_share_one_request(
    tasks_client: AsyncTokenClient, service: ServiceStandIn
) -> None:
    service.replies = [Reply(held=True)]

    asking = [asyncio.create_task(tasks_client.get("user_ada", "google")) for _ in range(CALLERS)]
    await asyncio.to_thread(service.arrived.acquire)
    service.released.set()
    tokens = await asyncio.gather(*asking)

    assert {token.access_token for token in tokens} == {TOKEN_TEXT}
    assert len(service.received) == 1


async def test_tasks_that_share_a_refusal_each_get_their_own_error(
    tasks_client: AsyncTokenClient, service: ServiceStandIn
) -> None:
    service.replies = [Reply.problem("grant_denied", 403)]

    errors = await asyncio.gather(
        *(tasks_client.get("user_ada", "google") for _ in range(CALLERS)), return_exceptions=True
    )

    assert {type(error) for error in errors} == {NotAllowedError}
    assert len({id(error) for error in errors}) == CALLERS
    assert len(service.received) == 1


async def test_first_caller_that_is_cancelled_leaves_the_others_their_answer(
    tasks_client: AsyncTokenClient, service: ServiceStandIn
) -> None:
    service.replies = [Reply(held=True)]

    first, second = (asyncio.create_task(tasks_client.get("user_ada", "google")) for _ in range(2))
    await asyncio.to_thread(service.arrived.acquire)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    service.released.set()

    assert (await second).access_token == TOKEN_TEXT
    assert len(service.received) == 1


async def test_answer_that_all_callers_gave_up_on_is_still_remembered(
    tasks_client: AsyncTokenClient, service: ServiceStandIn
) -> None:
    service.replies = [Reply(held=True)]

    first = asyncio.create_task(tasks_client.get("user_ada", "google"))
    await asyncio.to_thread(service.arrived.acquire)
    first.cancel()
    await asyncio.wait([first])
    service.released.set()
    later = await tasks_client.get("user_ada", "google")

    assert later.access_token == TOKEN_TEXT
    assert len(service.received) == 1


async def test_refreshes_of_whichever_token_was_rejected_share_one_request(
    tasks_client: AsyncTokenClient, service: ServiceStandIn
) -> None:
    service.replies = [Reply(), Reply(body=token_document(access_token="older")), Reply(held=True)]
    rejected = [await tasks_client.get("user_ada", "google", reason=reason) for reason in ("digest", "sync")]

    asking = [asyncio.create_task(tasks_client.refresh("user_ada", "google", rejected=it)) for it in rejected]
    for _ in range(3):
        await asyncio.to_thread(service.arrived.acquire)
    service.released.set()
    await asyncio.gather(*asking)

    assert [it.path for it in service.received[2:]] == ["/internal/tokens/refresh"]


async def test_closing_tells_those_who_wait(service: ServiceStandIn) -> None:
    service.replies = [Reply(held=True)]
    client = AsyncTokenClient(service.url, KEY)

    asking = asyncio.create_task(client.get("user_ada", "google"))
    await asyncio.to_thread(service.arrived.acquire)
    await client.aclose()

    with pytest.raises(TryLaterError) as raised:
        await asking
    assert raised.value.code == "client_closed"


def test_threads_that_ask_the_same_share_one_request(threads_client: TokenClient, service: ServiceStandIn) -> None:
    service.replies = [Reply(held=True)]
    together = threading.Barrier(CALLERS + 1)

    def ask() -> str:
        together.wait(10)
        return threads_client.get("user_ada", "google").access_token

    with ThreadPoolExecutor(CALLERS) as pool:
        asking = [pool.submit(ask) for _ in range(CALLERS)]
        together.wait(10)
        service.arrived.acquire()
        service.released.set()

    assert {it.result() for it in asking} == {TOKEN_TEXT}
    assert len(service.received) == 1


def test_threads_that_force_a_refresh_share_it(threads_client: TokenClient, service: ServiceStandIn) -> None:
    rejected = threads_client.get("user_ada", "google")
    service.replies = [Reply(body=token_document(access_token="new"))]

    with ThreadPoolExecutor(CALLERS) as pool:
        asking = [pool.submit(threads_client.refresh, "user_ada", "google", rejected=rejected) for _ in range(CALLERS)]

    assert {it.result().access_token for it in asking} == {"new"}
    assert len(service.received) == 2


def test_thread_that_is_interrupted_leaves_the_question_to_the_next() -> None:
    asked, interrupt = threading.Semaphore(0), threading.Event()
    answers = iter([_Interrupted()])

    def answer(_: httpx.Request) -> httpx.Response:
        asked.release()
        interrupt.wait(10)
        for interruption in answers:
            raise interruption
        return httpx.Response(200, json=token_document())

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as http,
        TokenClient("http://users.example.com", KEY, http=http) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(client.get, "user_ada", "google")
        asked.acquire()
        second = pool.submit(client.get, "user_ada", "google")
        interrupt.set()

    assert isinstance(first.exception(), _Interrupted)
    assert second.result().access_token == TOKEN_TEXT


def test_thread_waits_for_another_no_longer_than_its_deadline() -> None:
    asked, release = threading.Semaphore(0), threading.Event()

    def answer(_: httpx.Request) -> httpx.Response:
        asked.release()
        release.wait(10)
        return httpx.Response(200, json=token_document())

    with (
        httpx.Client(transport=httpx.MockTransport(answer)) as http,
        TokenClient("http://users.example.com", KEY, http=http, options=ClientOptions(deadline_seconds=0.1)) as client,
        ThreadPoolExecutor(2) as pool,
    ):
        first = pool.submit(client.get, "user_ada", "google")
        asked.acquire()
        error = pool.submit(client.get, "user_ada", "google").exception()
        first_was_done = first.done()
        release.set()

    assert isinstance(error, TryLaterError)
    assert not first_was_done
    assert first.result().access_token == TOKEN_TEXT


def test_thread_whose_turn_comes_just_after_the_answer_does_not_ask_again(
    threads_client: TokenClient, service: ServiceStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    exchange = threads_client._exchange
    recall = exchange.recall

    def overtaken(call: Call) -> Token | None:
        """Look for a remembered token; before returning what was found, let another call ask and get its answer."""
        monkeypatch.setattr(exchange, "recall", recall)
        found = recall(call)
        threads_client.get("user_ada", "google")
        return found

    monkeypatch.setattr(exchange, "recall", overtaken)

    token = threads_client.get("user_ada", "google")

    assert token.access_token == TOKEN_TEXT
    assert len(service.received) == 1


class _Interrupted(BaseException):
    """An exception like one that a task's time limit may raise anywhere in a thread."""
