"""Replaces members of a container's frozen groups for one test."""

from dataclasses import replace
from typing import Any

import pytest

from services.user_management.container import Container


def replace_in_group(monkeypatch: pytest.MonkeyPatch, container: Container, group: str, **members: Any) -> None:
    """Give `container` a copy of `group` with other `members`. Groups already built from `group` keep the old ones."""
    monkeypatch.setattr(container, group, replace(getattr(container, group), **members))
