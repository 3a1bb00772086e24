"""`./run demo` and `./test` on a machine that has what the README says to install, and nothing more."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.devstack.tests.minimal_root import MinimalRoot, installer_variables, minimal_root

DEMO_SECONDS = 600
TEST_SECONDS = 3600


@pytest.fixture(scope="module")
def root() -> Iterator[MinimalRoot]:
    with minimal_root() as made:
        yield made


@pytest.mark.nightly
@pytest.mark.parametrize(("command", "seconds"), [("./run demo", DEMO_SECONDS), ("./test", TEST_SECONDS)])
def test_command_works_for_an_ordinary_user_of_a_minimal_debian(
    root: MinimalRoot, tmp_path: Path, command: str, seconds: float
) -> None:
    log = tmp_path / "log"

    status = root.run(*command.split(), log=log, seconds=seconds)

    assert status == 0, log.read_text(errors="replace")[-20_000:]


def test_installers_keep_their_settings_and_nothing_else_comes_along() -> None:
    outside = {"PIP_CERT": "/c", "UV_PYTHON": "/p", "HTTPS_PROXY": "x", "no_proxy": "y", "HOME": "/root", "KEY": "k"}

    assert installer_variables(outside) == {"PIP_CERT": "/c", "HTTPS_PROXY": "x", "no_proxy": "y"}
