"""Conditional requests (RFC 9110 section 13) over entity tags that begin with the row's version."""

import re
from typing import Annotated, Any, Final

from fastapi import Depends, Header, Request
from fastapi.responses import Response
from pydantic import BaseModel

Responses = dict[int | str, dict[str, Any]]

_ENTITY_TAG: Final = {"ETag": {"description": "Entity tag of this representation", "schema": {"type": "string"}}}
TAGGED: Final[Responses] = {200: {"headers": _ENTITY_TAG}}
TAGGED_CREATED: Final[Responses] = {201: {"headers": _ENTITY_TAG}}
CONDITIONAL: Final[Responses] = {
    **TAGGED,
    304: {"description": "The client holds the current representation", "headers": _ENTITY_TAG},
}
IF_NONE_MATCH: Final[dict[str, Any]] = {
    "parameters": [
        {
            "name": "if-none-match",
            "in": "header",
            "required": False,
            "schema": {"type": "string"},
            "description": "Only if the resource has none of these entity tags any more",
        }
    ]
}
"""`openapi_extra` of what `answer_conditionally` answers, which reads the header itself."""
_TAG: Final = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_VERSION: Final = re.compile(r'"([1-9][0-9]{0,9})(?:-[0-9a-f-]*)?"')


def answer_conditionally(request: Request, answer: BaseModel) -> Response:
    """The model as JSON with its `etag`, if it has one; 304 where the client holds just that."""
    etag: str | None = getattr(answer, "etag", None)
    if etag is None:
        return Response(answer.model_dump_json(), media_type="application/json")
    headers = {"ETag": etag}
    wanted = request.headers.get("if-none-match")
    if wanted is not None and request.method in {"GET", "HEAD"} and _is_among(etag, wanted):
        return Response(status_code=304, headers=headers)
    return Response(answer.model_dump_json(), media_type="application/json", headers=headers)


def _is_among(etag: str, wanted: str) -> bool:
    """Weak comparison (section 8.8.3.2) with a list of tags, or `*`."""
    return wanted.strip() == "*" or etag in [tag.removeprefix("W/") for tag in _TAG.findall(wanted)]


async def expected_versions(
    if_match: Annotated[
        str | None, Header(max_length=1024, description="Only if the resource still has one of these entity tags")
    ] = None,
) -> frozenset[int] | None:
    """The versions of `If-Match`; None: any. Weak and unknown tags match nothing (section 13.1.1)."""
    if if_match is None or if_match.strip() == "*":
        return None
    versions = (_VERSION.fullmatch(tag.strip()) for tag in if_match.split(","))
    return frozenset(int(version[1]) for version in versions if version)


IfMatch = Annotated[frozenset[int] | None, Depends(expected_versions)]
