"""Tests of the key sets and the signature check that sign-in uses, with the published Wycheproof vectors for JWS and
JWK."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from services.sandbox.signing import SigningKey
from services.user_management.core.clock import SystemClock
from services.user_management.exceptions import UnauthenticatedError
from services.user_management.security.jwks import RemoteKeySet, parse_key_set
from services.user_management.security.jwt import verify_signature

FILES = ("json_web_signature_test.json", "json_web_key_test.json")
# Beside the keys under test, so that what is refused is this token and not the whole set.
BYSTANDER = SigningKey("bystander", rsa.generate_private_key(public_exponent=65537, key_size=2048)).jwk


class Vector(NamedTuple):
    """One published case: `keys` is the set that the verifier trusts."""

    name: str
    keys: list[dict[str, Any]]
    jws: str
    is_valid: bool


def _vectors(file: str) -> list[Vector]:
    groups = json.loads((Path(__file__).parent / file).read_text(encoding="utf-8"))["testGroups"]
    return [
        Vector(f"{file[:12]}-{test['tcId']}-{test['comment']}", group["keys"], test["jws"], test["result"] == "valid")
        for group in groups
        for test in group["tests"]
    ]


VECTORS = [vector for file in FILES for vector in _vectors(file)]
VALID = [vector for vector in VECTORS if vector.is_valid]
INVALID = [vector for vector in VECTORS if not vector.is_valid]


def _key_set(keys: list[dict[str, Any]]) -> RemoteKeySet:
    async def publish() -> dict[str, Any]:
        return {"keys": [*keys, BYSTANDER]}

    return RemoteKeySet(publish, SystemClock())


def test_vectors_are_all_there() -> None:
    assert (len(VALID), len(INVALID)) == (9, 58)


@pytest.mark.parametrize("vector", VALID, ids=lambda vector: vector.name)
async def test_valid_vector_is_accepted(vector: Vector) -> None:
    payload = (await verify_signature(vector.jws, _key_set(vector.keys))).payload

    assert isinstance(payload, bytes)


@pytest.mark.parametrize("vector", INVALID, ids=lambda vector: vector.name)
async def test_invalid_vector_is_refused(vector: Vector) -> None:
    with pytest.raises(UnauthenticatedError):
        await verify_signature(vector.jws, _key_set(vector.keys))


@pytest.mark.parametrize("case", [6, 7, 8, 9, 24, 25, 26])
def test_key_that_must_not_verify_is_not_in_the_set(case: int) -> None:
    [vector] = [vector for vector in _vectors(FILES[1]) if f"-{case}-" in vector.name]

    keys = parse_key_set({"keys": [*vector.keys, BYSTANDER]})

    assert set(keys) == {"bystander"}
