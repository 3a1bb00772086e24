"""A replica (a further process of the API) that ends while it starts."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from services.devstack import ports
from services.devstack.errors import DevstackError
from services.devstack.replicas import Replica


async def test_replica_that_ends_while_starting_is_a_failure_with_its_last_words(tmp_path: Path) -> None:
    stack: Any = SimpleNamespace(command=lambda _name: [sys.executable, "-c", "exit('no database')"], environment={})
    replica = Replica(stack, ports.free_ports(1)[0], tmp_path / "web.log", {})

    async with httpx.AsyncClient(trust_env=False) as client:
        with pytest.raises(DevstackError, match="ended while starting: no database"):
            await replica.until_ready(client)
