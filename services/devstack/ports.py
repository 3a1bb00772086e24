"""TCP ports: reading a port number, finding free ports, and telling whether one of our own processes listens on one."""

import contextlib
import secrets
import socket
from pathlib import Path

from services.devstack.errors import DevstackError

LOOPBACK = "127.0.0.1"
_LISTEN = "0A"  # TCP_LISTEN in /proc/net/tcp, include/net/tcp_states.h
_ATTEMPTS = 50
_LAST_PORT = 65535
_FIRST_PORT, _FIRST_OUTGOING = 15_000, 32_768
_CHANCE = secrets.SystemRandom()


def parse_port(value: str, *, variable: str) -> int:
    """Return `value` as a port number. Raises `DevstackError`, which names `variable`, if it is not one."""
    if not value.isdecimal() or not 0 < int(value) <= _LAST_PORT:
        raise DevstackError(f"{variable} is {value!r}, not a port number")
    return int(value)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Tell whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As servers do: connections in TIME_WAIT, of a server that just ended, do not block the port.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True


def require_free(port: int, *, variable: str, host: str = LOOPBACK) -> None:
    """Check that the port is free. Raises `DevstackError` naming the port and the variable that chooses another."""
    if not is_free(port, host):
        raise DevstackError(f"port {port} is taken: stop what listens there, or set {variable} to another port")


def free_ports(count: int = 1) -> list[int]:
    """Return `count` consecutive free ports. Raises `DevstackError` when 50 attempts found none.

    The ports lie below the range from which kernels choose ports for outgoing connections (from 32768 on Linux, 49152
    elsewhere), so that no outgoing connection takes one before our server binds it.
    """
    for _ in range(_ATTEMPTS):
        first = _CHANCE.randrange(_FIRST_PORT, _FIRST_OUTGOING - count)
        ports = list(range(first, first + count))
        if all(map(is_free, ports)):
            return ports
    raise DevstackError(f"no {count} consecutive free ports were found")


def is_served_by(port: int, session: int) -> bool:
    """Tell whether a process of the session with the id `session` listens on `port`. Always true where there is no
    /proc."""
    if not Path("/proc/net/tcp").exists():
        return True
    inodes = _listening_inodes(port)
    return any(
        inodes & _socket_inodes(process) for process in Path("/proc").glob("[0-9]*") if _session(process) == session
    )


def _listening_inodes(port: int) -> set[str]:
    found = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()  # proc_net_tcp(5): sl local_address rem_address st … inode is the tenth
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                found.add(f"socket:[{fields[9]}]")
    return found


def _socket_inodes(process: Path) -> set[str]:
    links = set()
    with contextlib.suppress(OSError):  # ended meanwhile, or not ours to look at
        for descriptor in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                links.add(str(descriptor.readlink()))
    return links


def _session(process: Path) -> int | None:
    try:
        # proc_pid_stat(5): the name in parentheses may contain anything; session is the fourth field after it.
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return None
