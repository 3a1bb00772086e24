"""Tests of our own functions against published vectors: NIST CAVP and one of its authors' for AES-256-GCM, RFC 5869 for
HKDF, RFC 7914 for PBKDF2."""

from pathlib import Path
from typing import Final, NamedTuple

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.user_management.exceptions import PoisonedCiphertextError
from services.user_management.security.encryption import hkdf_expand, open_bytes, pbkdf2, seal_bytes

NIST: Final = Path(__file__).parent / "nist"


class Vector(NamedTuple):
    """One case of NIST's for AES-256-GCM; if `plaintext` is None, decryption has to be refused."""

    cipher: AESGCM
    nonce: bytes
    associated: bytes
    sealed: bytes
    plaintext: bytes | None


def _vectors(file: str) -> list[Vector]:
    blocks = (NIST / file).read_text(encoding="utf-8").split("\n\n")
    return [_vector(block) for block in blocks if "Key = " in block]


def _vector(block: str) -> Vector:
    values = dict(line.split(" =") for line in block.splitlines() if " =" in line)
    numbers = {name: bytes.fromhex(value) for name, value in values.items()}
    nonce = numbers["IV"]
    sealed = nonce + numbers["CT"] + numbers["Tag"]
    return Vector(AESGCM(numbers["Key"]), nonce, numbers["AAD"], sealed, numbers.get("PT"))


ENCRYPTED: Final = _vectors("gcmEncryptExtIV256.rsp")
DECRYPTED: Final = _vectors("gcmDecrypt256.rsp")


def test_vectors_are_all_there() -> None:
    refused = sum(vector.plaintext is None for vector in DECRYPTED)

    assert (len(ENCRYPTED), len(DECRYPTED), refused) == (100, 198, 100)


def test_aes_256_gcm_encrypts_as_nist_says() -> None:
    for vector in ENCRYPTED:
        assert vector.plaintext is not None
        assert seal_bytes(vector.cipher, vector.nonce, vector.plaintext, vector.associated) == vector.sealed


def test_aes_256_gcm_decrypts_as_nist_says() -> None:
    for vector in DECRYPTED:
        if vector.plaintext is not None:
            assert open_bytes(vector.cipher, vector.sealed, vector.associated) == vector.plaintext


def test_aes_256_gcm_refuses_what_nist_refuses() -> None:
    for vector in DECRYPTED:
        if vector.plaintext is None:
            with pytest.raises(PoisonedCiphertextError):
                open_bytes(vector.cipher, vector.sealed, vector.associated)


def test_aes_256_gcm_matches_the_vector_of_its_authors() -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 16.
    cipher = AESGCM(bytes.fromhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"))
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    plaintext = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )

    sealed = seal_bytes(cipher, nonce, plaintext, bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2"))

    assert sealed[12:28].hex() == "522dc1f099567d07f47f37a32a84427d"
    assert sealed[-16:].hex() == "76fc6ece0f4e1768cddf8853bb2d551b"


@pytest.mark.parametrize(
    ("pseudorandom_key", "info", "first_block"),
    [
        (
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "f0f1f2f3f4f5f6f7f8f9",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
        ),
        (
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            bytes(range(0xB0, 0x100)).hex(),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
        ),
        (
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d",
        ),
    ],
    ids=["A.1", "A.2", "A.3"],
)
def test_hkdf_expand_matches_rfc_5869(pseudorandom_key: str, info: str, first_block: str) -> None:
    assert hkdf_expand(bytes.fromhex(pseudorandom_key), bytes.fromhex(info)).hex() == first_block


@pytest.mark.parametrize(
    ("secret", "salt", "iterations", "first_block"),
    [
        (b"passwd", b"salt", 1, "55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc"),
        (b"Password", b"NaCl", 80_000, "4ddcd8f60b98be21830cee5ef22701f9641a4418d04c0414aeff08876b34ab56"),
    ],
)
def test_pbkdf2_matches_rfc_7914(secret: bytes, salt: bytes, iterations: int, first_block: str) -> None:
    assert pbkdf2(secret, salt, iterations).hex() == first_block
