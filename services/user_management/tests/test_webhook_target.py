"""Tests that outgoing webhooks go to public addresses alone (outside production to loopback too), whatever a name
resolves to and whatever a receiver answers, and over TLS to the named server alone."""

import asyncio
import datetime
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from services.user_management.core.clock import SystemClock
from services.user_management.integrations import webhook_sender
from services.user_management.integrations.webhook_sender import SendFailure, WebhookAnswer, WebhookSender
from services.user_management.integrations.webhook_target import (
    RESOLVER_THREADS,
    TargetProblem,
    TargetRefusedError,
    WebhookTargets,
    is_public,
)
from services.user_management.tests.webhook_receiver import Receiver, answer, receiving

PUBLIC = "93.184.215.14"
NOT_PUBLIC = [
    "0.0.0.0",  # noqa: S104 - an address to refuse
    *("0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.9.9.9", "169.254.169.254", "172.16.0.1"),
    *("192.0.0.9", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.51.100.1", "203.0.113.1"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("168.63.129.16", "100.100.100.200", "192.0.0.192", "169.254.0.23", "161.26.0.10", "166.8.0.1", "166.11.255.255"),
    *("199.36.153.4", "199.36.153.11", "fd20:ce::254"),
    *("::", "::1", "::7f00:1", "::ffff:127.0.0.1", "::ffff:93.184.215.14", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1"),
    *("100::1", "2001::1", "2001:2::1", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1"),
    *("5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%1", "fec0::1", "ff02::1", "ff0e::1"),
]
REFUSED_URLS = [
    *("http://hooks.example.com/", "ftp://hooks.example.com/", "https:///path", "https://", "hooks.example.com"),
    *("https://user@hooks.example.com/", "https://user:word@hooks.example.com/", "https://hooks.example.com/#part"),
    *("https://hooks.example.com:80/", "https://hooks.example.com:22/", "https://hooks.example.com:1023/"),
    *(
        "https://hooks.example.com:0/",
        "https://hooks.example.com:99999/",
        "https://hööks.example.com/",
        "https://[::1/",
    ),
]


class Names:
    """A resolver that gives the listed answers in turn, then always the last one; `asked` counts the look-ups."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked = 0

    async def __call__(self, _host: str, _port: int) -> Sequence[str]:
        self.asked += 1
        return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def sender_for(names: Names, *, allow_local: bool = False, tls: ssl.SSLContext | None = None) -> WebhookSender:
    return WebhookSender(WebhookTargets(allow_local=allow_local, resolve=names), SystemClock(), ssl_context=tls)


async def post(sender: WebhookSender, url: str) -> WebhookAnswer:
    try:
        return await sender.send(url, headers={"Content-Type": "text/plain"}, body=b"hello")
    finally:
        await sender.aclose()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


@pytest.fixture
async def local() -> AsyncIterator[WebhookSender]:
    """A sender that may call this machine."""
    sender = WebhookSender(WebhookTargets(allow_local=True), SystemClock())
    yield sender
    await sender.aclose()


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_address_that_is_not_on_the_internet_is_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        PUBLIC,
        "1.1.1.1",
        "8.8.8.8",
        "168.63.129.17",
        "199.36.153.12",
        "2606:4700:4700::1111",
        "2a00:1450:4001:80b::200e",
    ],
)
def test_address_on_the_internet_is_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("url", REFUSED_URLS)
def test_url_of_another_form_is_refused_in_production(url: str) -> None:
    with pytest.raises(TargetRefusedError) as refused:
        WebhookTargets(allow_local=False).check_url(url)

    assert refused.value.problem is TargetProblem.URL


@pytest.mark.parametrize("port", ["", ":443", ":1024", ":8443", ":65535"])
async def test_url_at_a_public_address_is_accepted_in_production(port: str) -> None:
    names = Names([PUBLIC, "2606:4700:4700::1111"])

    await WebhookTargets(allow_local=False, resolve=names).check(f"https://hooks.example.com{port}/a?b=c")

    assert names.asked == 1


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (["127.0.0.1"], TargetProblem.ADDRESS),
        ([PUBLIC, "10.0.0.1"], TargetProblem.ADDRESS),
        ([PUBLIC, "::ffff:10.0.0.1"], TargetProblem.ADDRESS),
        (["not-an-address"], TargetProblem.ADDRESS),
        ([], TargetProblem.NOT_RESOLVED),
    ],
)
async def test_name_of_which_one_address_is_private_is_refused(found: list[str], problem: TargetProblem) -> None:
    with pytest.raises(TargetRefusedError) as refused:
        await WebhookTargets(allow_local=False, resolve=Names(found)).check("https://hooks.example.com/")

    assert refused.value.problem is problem


@pytest.mark.parametrize("host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:7f00:1]"])
async def test_loopback_in_another_spelling_is_refused_in_production(host: str) -> None:
    with pytest.raises(TargetRefusedError):
        await WebhookTargets(allow_local=False).check(f"https://{host}/")


async def test_private_network_is_refused_outside_production_too() -> None:
    with pytest.raises(TargetRefusedError):
        await WebhookTargets(allow_local=True).check("http://169.254.169.254/latest/meta-data")


async def test_name_that_is_public_when_checked_and_loopback_when_called_reaches_nobody(receiver: Receiver) -> None:
    names = Names([PUBLIC], ["127.0.0.1"])
    targets = WebhookTargets(allow_local=False, resolve=names)
    url = f"https://rebound.example.com:{receiver.port}/"

    await targets.check(url)
    answered = await post(WebhookSender(targets, SystemClock()), url)

    assert answered == WebhookAnswer(None, SendFailure.ADDRESS_REFUSED)
    assert (receiver.connections, names.asked) == (0, 2)


async def test_connection_goes_to_the_vetted_address_without_another_look_up(receiver: Receiver) -> None:
    # The second answer would be refused, and the name itself leads nowhere.
    names = Names(["127.0.0.1"], ["10.0.0.1"])

    answered = await post(sender_for(names, allow_local=True), receiver.url_of("hooks.example.com"))

    assert answered == WebhookAnswer(200, None)
    assert names.asked == 1
    assert receiver.received[0].headers["host"] == f"hooks.example.com:{receiver.port}"


async def test_each_delivery_is_vetted_anew(receiver: Receiver) -> None:
    sender = sender_for(Names(["127.0.0.1"], ["10.0.0.1"]), allow_local=True)
    url = receiver.url_of("hooks.example.com")

    answers = [await sender.send(url, headers={}, body=b"x") for _ in range(2)]
    await sender.aclose()

    assert [one.failure for one in answers] == [None, SendFailure.ADDRESS_REFUSED]
    assert receiver.connections == 1


async def test_second_address_is_tried_when_the_first_refuses(receiver: Receiver) -> None:
    names = Names(["::1", "127.0.0.1"])

    answered = await post(sender_for(names, allow_local=True), receiver.url_of("hooks.example.com"))

    assert answered.failure is None


async def test_proxies_of_the_environment_are_not_used(
    receiver: Receiver, local: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")

    answered = await local.send(receiver.url, headers={}, body=b"x")

    assert answered.status == 200


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirect_is_a_failure_and_not_followed(receiver: Receiver, local: WebhookSender, status: int) -> None:
    receiver.answers = [answer(status, Location=receiver.url)]

    answered = await local.send(receiver.url, headers={}, body=b"x")

    assert answered == WebhookAnswer(status, SendFailure.REDIRECTED)
    assert len(receiver.received) == 1


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (answer(204), WebhookAnswer(204, None)),
        (answer(500), WebhookAnswer(500, SendFailure.REFUSED)),
        (answer(410), WebhookAnswer(410, SendFailure.GONE)),
        (answer(429, Retry_After="120"), WebhookAnswer(429, SendFailure.REFUSED, 120)),
        (answer(500, Retry_After="120"), WebhookAnswer(500, SendFailure.REFUSED)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n" + b"x" * 2_000_000, WebhookAnswer(200, None)),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nx", WebhookAnswer(200, None)),
        (b"not HTTP at all\r\n\r\n", WebhookAnswer(None, SendFailure.BROKEN_ANSWER)),
        (b"", WebhookAnswer(None, SendFailure.BROKEN_ANSWER)),
    ],
)
async def test_answer_is_judged_by_its_head_alone(
    receiver: Receiver, local: WebhookSender, reply: bytes, expected: WebhookAnswer
) -> None:
    receiver.answers = [reply]

    answered = await local.send(receiver.url, headers={}, body=b"x")

    assert answered == expected


async def test_receiver_that_never_answers_is_given_up(
    receiver: Receiver, local: WebhookSender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook_sender, "TOTAL_SECONDS", 0.2)
    receiver.otherwise = None

    answered = await local.send(receiver.url, headers={}, body=b"x")

    assert answered == WebhookAnswer(None, SendFailure.TIMED_OUT)


async def test_port_where_nobody_listens_is_a_failure(local: WebhookSender) -> None:
    async with receiving() as gone:
        url = gone.url

    assert await local.send(url, headers={}, body=b"x") == WebhookAnswer(None, SendFailure.NOT_CONNECTED)


# TLS


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """Write a self-signed certificate of the server `name` and its key to files; return (certificate, key)."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / f"{name}.pem", folder / f"{name}.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@pytest.fixture
async def secure(tmp_path: Path) -> AsyncIterator[tuple[Receiver, ssl.SSLContext]]:
    """A receiver with a certificate for hooks.example.com, and a TLS context that trusts that certificate."""
    certificate_file, key_file = _certificate(tmp_path, "hooks.example.com")
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(certificate_file, key_file)
    async with receiving(serving) as started:
        yield started, ssl.create_default_context(cafile=certificate_file)


async def test_certificate_of_the_name_in_the_url_is_accepted(secure: tuple[Receiver, ssl.SSLContext]) -> None:
    receiver, trusting = secure
    sender = sender_for(Names(["127.0.0.1"]), allow_local=True, tls=trusting)

    answered = await post(sender, receiver.url_of("hooks.example.com"))

    assert answered == WebhookAnswer(200, None)


@pytest.mark.parametrize("host", ["other.example.com", "127.0.0.1"])
async def test_certificate_of_another_name_is_refused(secure: tuple[Receiver, ssl.SSLContext], host: str) -> None:
    receiver, trusting = secure
    sender = sender_for(Names(["127.0.0.1"]), allow_local=True, tls=trusting)

    answered = await post(sender, receiver.url_of(host))

    assert answered == WebhookAnswer(None, SendFailure.TLS_FAILED)
    assert receiver.received == []


async def test_certificate_of_an_unknown_authority_is_refused(secure: tuple[Receiver, ssl.SSLContext]) -> None:
    receiver, _ = secure

    answered = await post(sender_for(Names(["127.0.0.1"]), allow_local=True), receiver.url_of("hooks.example.com"))

    assert answered == WebhookAnswer(None, SendFailure.TLS_FAILED)


async def test_resolver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.user_management.integrations.webhook_target.RESOLVE_SECONDS", 0.05)

    async def hang(_host: str, _port: int) -> list[str]:
        await asyncio.Event().wait()
        return []

    with pytest.raises(TargetRefusedError) as refused:
        await WebhookTargets(allow_local=False, resolve=hang).check("https://hooks.example.com/")

    assert refused.value.problem is TargetProblem.NOT_RESOLVED


@pytest.fixture
def hanging_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Let look-ups of all names that end in the returned text hang until the test is over."""
    over, system = threading.Event(), socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **options: Any) -> Any:
        if host.endswith(".hangs.example"):
            over.wait()
            raise socket.gaierror(socket.EAI_AGAIN, "no server answered")
        return system(host, *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield ".hangs.example"
    over.set()


async def _give_up(targets: WebhookTargets, name: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.user_management.integrations.webhook_target.RESOLVE_SECONDS", 0.01)
        with pytest.raises(TargetRefusedError):
            await targets.check(f"http://{name}/")


async def test_names_that_hang_leave_the_loop_its_own_threads(hanging_names: str) -> None:
    targets = WebhookTargets(allow_local=True)

    for number in range(2 * RESOLVER_THREADS):
        await _give_up(targets, f"{number}{hanging_names}")

    async with asyncio.timeout(10):
        assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 80)


async def test_name_that_hangs_takes_one_thread_however_often_it_is_asked(hanging_names: str) -> None:
    targets = WebhookTargets(allow_local=True)

    for _ in range(2 * RESOLVER_THREADS):
        await _give_up(targets, f"one{hanging_names}")

    assert await targets.addresses("127.0.0.1", 80) == ["127.0.0.1"]
