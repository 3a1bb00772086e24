"""Fixtures for the tests of the development stack."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.devstack import folders


@pytest.fixture
def scratch() -> Iterator[Path]:
    """A throw-away folder with a space in its name that the account of Postgres can reach, unlike `tmp_path`."""
    with folders.scratch_folder() as folder:
        place = folder / "with space"
        folders.make_folder(place)
        yield place
