"""Tests of the examples in the OpenAPI document: every request, answer and required parameter has one that fits its
schema."""

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI

from services.user_management.routers.examples import EXAMPLES, schema_name


def _items(document: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [*document["paths"].items(), *document["webhooks"].items()]


def _contents(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in _items(document):
        for operation in item.values():
            answers = [answer for status, answer in operation["responses"].items() if status.startswith("2")]
            for described in (operation.get("requestBody", {}), *answers):
                for media_type, content in described.get("content", {}).items():
                    yield f"{operation['operationId']} {path}", media_type, content


def _fits(document: dict[str, Any], schema: dict[str, Any], example: Any) -> bool:
    rooted = {**schema, "components": document["components"]}
    return bool(jsonschema_rs.validator_for(rooted, validate_formats=True).is_valid(example))


def test_every_request_and_answer_has_an_example_that_fits_its_schema(app: FastAPI) -> None:
    document = app.openapi()

    wrong = [
        name
        for name, _, content in _contents(document)
        if "example" not in content or not _fits(document, content.get("schema", {}), content["example"])
    ]

    assert wrong == []


def test_every_required_parameter_has_an_example_that_fits_its_schema(app: FastAPI) -> None:
    document = app.openapi()
    operations = [operation for _, item in _items(document) for operation in item.values()]
    required = [one for operation in operations for one in operation.get("parameters", []) if one["required"]]

    assert required
    assert all(_fits(document, parameter["schema"], parameter["example"]) for parameter in required)


def test_example_of_every_schema_is_used(app: FastAPI) -> None:
    used = {name for _, _, content in _contents(app.openapi()) if (name := schema_name(content["schema"]))}

    assert set(EXAMPLES) == used


@pytest.mark.parametrize("change", [{"id": 1}, {"status": None}, {"created_at": "yesterday"}])
def test_example_that_does_not_fit_is_found(app: FastAPI, change: dict[str, Any]) -> None:
    schema = {"$ref": "#/components/schemas/UserResponse"}

    assert not _fits(app.openapi(), schema, EXAMPLES["UserResponse"] | change)
