"""The load balancer of the chaos run: it tries the next process if a request could not be sent, and counts the requests
that fail after they were sent."""

import httpx
import pytest

from benchmarks.chaos.restarts import Balancer

ENDING = 1
SERVING = 2


class Processes(httpx.AsyncBaseTransport):
    """A transport to two processes: ENDING fails each request with `failure`, SERVING answers each with 200."""

    def __init__(self, failure: httpx.TransportError) -> None:
        self.asked: list[int | None] = []
        self._failure = failure

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.url.port)
        if request.url.port == ENDING:
            raise self._failure
        return httpx.Response(200)


async def test_balancer_passes_a_refused_connection_on_and_has_dropped_nothing() -> None:
    processes = Processes(httpx.ConnectError("refused"))
    balancer = Balancer([ENDING, SERVING], processes)

    async with httpx.AsyncClient(transport=balancer) as client:
        answers = [await client.post("http://127.0.0.1/") for _ in range(2)]

    assert [answer.status_code for answer in answers] == [200, 200]
    assert processes.asked == [ENDING, SERVING, SERVING]
    assert balancer.dropped == []


@pytest.mark.parametrize(
    "failure",
    [httpx.ReadError("reset"), httpx.RemoteProtocolError("disconnected"), httpx.WriteError("broken pipe")],
    ids=lambda failure: type(failure).__name__,
)
async def test_balancer_sends_no_request_twice_and_counts_it_as_dropped(failure: httpx.TransportError) -> None:
    processes = Processes(failure)
    balancer = Balancer([ENDING, SERVING], processes)

    async with httpx.AsyncClient(transport=balancer) as client:
        with pytest.raises(type(failure)):
            await client.post("http://127.0.0.1/")

    assert processes.asked == [ENDING]
    assert len(balancer.dropped) == 1
