"""A check that the OpenAPI document lists every answer of the application under test."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
from fastapi import FastAPI

from services.user_management.middleware.prefix import OPERATOR_PATHS, PREFIX


def documented_answers(app: FastAPI) -> Callable[[httpx.Response], Awaitable[None]]:
    """Return a response hook for httpx that fails the test when the document lists a route but not the status of its
    answer, or not the code of its problem. It does not check routes outside the document, paths with an encoded slash,
    or operators' paths under the API's prefix."""
    document = app.openapi()
    # Fixed paths come before templates.
    templates = sorted(document["paths"], key=lambda path: path.count("{"))
    patterns = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), document["paths"][path]) for path in templates]
    shared: dict[str, Any] = document["components"]["responses"]

    async def check(response: httpx.Response) -> None:
        # The path as it was sent: the document does not cover spellings that hide a path.
        sent = response.request.url.raw_path.partition(b"?")[0].decode()
        path = sent.removeprefix(PREFIX)
        if path != sent and any(path.startswith(operators) for operators in OPERATOR_PATHS):
            return
        if "%2f" in path.lower():
            # An encoded slash separates segments too, so the path has more segments than it seems to have.
            return
        item = next((item for pattern, item in patterns if pattern.fullmatch(path)), None)
        operation = (item or {}).get(response.request.method.lower())
        if operation is None:
            return
        listed = operation["responses"].get(str(response.status_code))
        assert listed is not None, f"{response.request.method} {path} answers an undocumented {response.status_code}"
        if "$ref" in listed:
            name = listed["$ref"].rpartition("/")[2]
            assert name in shared
            await response.aread()
            code = response.json()["type"]
            assert code in name.split("."), f"{response.request.method} {path}: {code} is not among {name}"

    return check
