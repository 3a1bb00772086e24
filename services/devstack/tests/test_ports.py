import os
import socket

import pytest

from services.devstack import ports
from services.devstack.errors import DevstackError


@pytest.mark.parametrize("value", ["", "0", "65536", "-1", "80a", "8000 "])
def test_port_that_is_not_a_number_is_refused_with_its_variable(value: str) -> None:
    with pytest.raises(DevstackError, match="SANDBOX_PORT"):
        ports.parse_port(value, variable="SANDBOX_PORT")


def test_port_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        with pytest.raises(DevstackError, match=f"port {port} is taken.* PORT "):
            ports.require_free(port, variable="PORT")


def test_free_ports_are_consecutive_and_free() -> None:
    found = ports.free_ports(3)

    assert found == list(range(found[0], found[0] + 3))
    assert all(map(ports.is_free, found))


def test_served_by_knows_our_session_from_another() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        assert ports.is_served_by(port, os.getsid(0))
        assert not ports.is_served_by(port, 1)
