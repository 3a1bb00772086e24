"""Tests of the signature check with vectors of our own for the classes of attack that Wycheproof publishes: PKCS #1
v1.5 paddings and base64url.

The vectors are computed here with a key of our own from the rules of RFC 8017 section 8.2.2 and RFC 4648 section 3.5.
"""

import hashlib
from typing import Final

import pytest

from services.sandbox.signing import base64url
from services.user_management.exceptions import UnauthenticatedError
from services.user_management.security.jwt import verify_signature
from services.user_management.tests.session_tokens import KEY_ID, PRIVATE_KEY, OneKey, signed

NUMBERS = PRIVATE_KEY.private_numbers()
MODULUS = NUMBERS.public_numbers.n
SIZE: Final = 256
HEADER = b'{"alg":"RS256","kid":"' + KEY_ID.encode() + b'"}'
MESSAGE = f"{base64url(HEADER)}.{base64url(b'foo')}"
DIGEST = hashlib.sha256(MESSAGE.encode()).digest()
PREFIX = bytes.fromhex("3031300d060960864801650304020105000420")
"""DER of the DigestInfo of SHA-256, up to the digest (RFC 8017 section 9.2, note 1)."""


def _padded(tail: bytes) -> bytes:
    return b"\x00\x01" + b"\xff" * (SIZE - 3 - len(tail)) + b"\x00" + tail


def _raw(encoded: bytes) -> bytes:
    return pow(int.from_bytes(encoded, "big"), NUMBERS.d, MODULUS).to_bytes(SIZE, "big")


def _changed(encoded: bytes, position: int) -> bytes:
    return encoded[:position] + bytes([encoded[position] ^ 1]) + encoded[position + 1 :]


GOOD = _padded(PREFIX + DIGEST)
TAIL_AT = SIZE - len(PREFIX) - len(DIGEST)
PADDINGS = {
    "no-null-parameters": _padded(bytes.fromhex("302f300b0609608648016503040201") + b"\x04\x20" + DIGEST),
    "null-appended": _padded(bytes.fromhex("3033") + PREFIX[2:] + DIGEST + b"\x05\x00"),
    "outer-length-long-form": _padded(b"\x30\x81\x31" + PREFIX[2:] + DIGEST),
    "outer-length-leading-zero": _padded(b"\x30\x82\x00\x31" + PREFIX[2:] + DIGEST),
    "outer-length-indefinite": _padded(b"\x30\x80" + PREFIX[2:] + DIGEST + b"\x00\x00"),
    "inner-length-long-form": _padded(bytes.fromhex("303230810d") + PREFIX[4:] + DIGEST),
    "digest-length-long-form": _padded(bytes.fromhex("3032") + PREFIX[2:-1] + b"\x81\x20" + DIGEST),
    "digest-truncated": _padded(bytes.fromhex("3030") + PREFIX[2:-1] + b"\x1f" + DIGEST[:-1]),
    "digest-alone": _padded(DIGEST),
    "digest-of-sha-512": _padded(
        bytes.fromhex("3051300d060960864801650304020305000440") + hashlib.sha512(MESSAGE.encode()).digest()
    ),
    "named-sha-512-holds-sha-256": _padded(PREFIX[:14] + b"\x03" + PREFIX[15:] + DIGEST),
    # Bleichenbacher, CRYPTO 2006: short padding, what is wanted, and room to choose from.
    "garbage-after-digest": b"\x00\x01" + b"\xff" * 8 + b"\x00" + (PREFIX + DIGEST).ljust(SIZE - 11, b"\x5a"),
    "garbage-before-digest": b"\x00\x01" + b"\xff" * 8 + b"\x00" + (PREFIX + DIGEST).rjust(SIZE - 11, b"\x5a"),
    "block-type-0": b"\x00\x00" + b"\x00" * (SIZE - 3 - 51) + b"\x00" + PREFIX + DIGEST,
    "block-type-2": b"\x00\x02" + GOOD[2:],
    "no-separator": GOOD[: TAIL_AT - 1] + b"\xff" + GOOD[TAIL_AT:],
    **{f"padding-byte-{position}": _changed(GOOD, position) for position in (1, 2, 50, 100, TAIL_AT - 2, TAIL_AT - 1)},
    **{f"prefix-byte-{position}": _changed(GOOD, TAIL_AT + position) for position in range(len(PREFIX))},
    **{f"digest-byte-{position}": _changed(GOOD, SIZE - 32 + position) for position in (0, 15, 31)},
}
SIGNATURE = _raw(GOOD)
SIGNATURES = {
    "zero": b"\x00" * SIZE,
    "one": b"\x01".rjust(SIZE, b"\x00"),
    "modulus": MODULUS.to_bytes(SIZE, "big"),
    "modulus-less-one": (MODULUS - 1).to_bytes(SIZE, "big"),
    "not-reduced": (int.from_bytes(SIGNATURE, "big") + MODULUS).to_bytes(SIZE + 1, "big"),
    "leading-zero": b"\x00" + SIGNATURE,
    "trailing-zero": SIGNATURE + b"\x00",
    "truncated": SIGNATURE[:-1],
    "truncated-in-front": SIGNATURE[1:],
    "negated": (MODULUS - int.from_bytes(SIGNATURE, "big")).to_bytes(SIZE, "big"),
    "encoded-message-unsigned": GOOD,
    "empty": b"",
}


def _sign_text(message: str) -> str:
    """Sign `message` as it stands, even if it is no valid base64url; return it with the signature."""
    encoded = _padded(PREFIX + hashlib.sha256(message.encode()).digest())
    return f"{message}.{base64url(_raw(encoded))}"


async def test_hand_made_signature_with_the_right_padding_is_accepted() -> None:
    assert (await verify_signature(f"{MESSAGE}.{base64url(SIGNATURE)}", OneKey())).payload == b"foo"


@pytest.mark.parametrize("encoded", PADDINGS.values(), ids=PADDINGS)
async def test_modified_padding_is_refused(encoded: bytes) -> None:
    assert len(encoded) == SIZE

    with pytest.raises(UnauthenticatedError):
        await verify_signature(f"{MESSAGE}.{base64url(_raw(encoded))}", OneKey())


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES)
async def test_signature_out_of_shape_is_refused(signature: bytes) -> None:
    with pytest.raises(UnauthenticatedError):
        await verify_signature(f"{MESSAGE}.{base64url(signature)}", OneKey())


HEADER_TEXT, PAYLOAD_TEXT = base64url(HEADER), "Zm8"  # "fo": its last character has two bits to spare


@pytest.mark.parametrize(
    "message",
    [
        f"{HEADER_TEXT}.Zm9",
        f"{HEADER_TEXT}.Zm8=",
        f"{HEADER_TEXT}.Zm8==",
        f"{HEADER_TEXT}.    Zm8",
        f"{HEADER_TEXT}.Z m8",
        f"{HEADER_TEXT}.Zm8\n",
        f"{HEADER_TEXT}.?Zm8",
        f"{HEADER_TEXT}.####Zm8",
        f"{HEADER_TEXT}.Zm8A?",
        f"{HEADER_TEXT}.Zm+/",
        f"{HEADER_TEXT}.Z",
        f"{HEADER_TEXT}.Zm8AA",
        f"{HEADER_TEXT}    .Zm8",
        f"{HEADER_TEXT}####.Zm8",
        f"{HEADER_TEXT}?.Zm8",
        f"{HEADER_TEXT[:-1]}?{HEADER_TEXT[-1]}.Zm8",
        f"{HEADER_TEXT}=.Zm8",
        f" {HEADER_TEXT}.Zm8",
    ],
)
async def test_text_that_is_no_canonical_base64url_is_refused_although_it_is_signed(message: str) -> None:
    assert (await verify_signature(_sign_text(f"{HEADER_TEXT}.{PAYLOAD_TEXT}"), OneKey())).payload == b"fo"

    with pytest.raises(UnauthenticatedError):
        await verify_signature(_sign_text(message), OneKey())


@pytest.mark.parametrize("header", [b'{ "alg" : "RS256" , "kid":"%s" }', b'{\n\t"kid":"%s",\r\n"alg":"RS256"}'])
async def test_white_space_in_the_json_of_the_header_is_accepted(header: bytes) -> None:
    assert (await verify_signature(signed(header % KEY_ID.encode(), b"foo"), OneKey())).payload == b"foo"
