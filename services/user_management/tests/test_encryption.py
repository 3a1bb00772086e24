"""The vault's cryptography: published vectors, and every way a ciphertext can be wrong."""

import hashlib

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.security.encryption import (
    KEY_BYTES,
    PBKDF2_ITERATIONS,
    Binding,
    TokenEncryption,
    derive_root_key,
    hkdf_expand,
)

ROOTS = {1: b"\x01" * KEY_BYTES, 2: b"\x02" * KEY_BYTES}
BINDING = Binding(purpose="token", user_id="user_ada", place="integration-1", kind="access")


@pytest.fixture
def vault() -> TokenEncryption:
    return TokenEncryption(ROOTS)


def test_aes_256_gcm_matches_the_published_vector() -> None:
    # McGrew and Viega, "The Galois/Counter Mode of Operation", appendix B, test case 16.
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308")
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    plaintext = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a721c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    associated = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")

    sealed = AESGCM(key).encrypt(nonce, plaintext, associated)

    assert sealed[-16:].hex() == "76fc6ece0f4e1768cddf8853bb2d551b"
    assert sealed[:16].hex() == "522dc1f099567d07f47f37a32a84427d"


def test_hkdf_expand_matches_rfc_5869_case_1() -> None:
    pseudorandom_key = bytes.fromhex("077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5")
    info = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9")

    block = hkdf_expand(pseudorandom_key, info)

    assert block.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


def test_pbkdf2_matches_the_published_sha256_vector() -> None:
    # RFC 7914 section 11.
    derived = hashlib.pbkdf2_hmac("sha256", b"passwd", b"salt", 1, 64)

    assert derived.hex().startswith("55ac046e56e3089fec1691c22544b605f94185216dde0465e68b9d57c20dacbc")


def test_root_key_uses_the_declared_rounds() -> None:
    expected = hashlib.pbkdf2_hmac("sha256", b"s" * 32, b"salt", PBKDF2_ITERATIONS, 32)

    assert derive_root_key(b"s" * 32, b"salt") == expected
    assert PBKDF2_ITERATIONS == 600_000


@given(plaintext=st.text(max_size=2000))
def test_decryption_of_what_was_encrypted_gives_it_back(plaintext: str) -> None:
    vault = TokenEncryption(ROOTS)

    assert vault.decrypt_token(vault.encrypt_token(plaintext, BINDING, 2), BINDING, 2) == plaintext


def test_encrypting_twice_gives_different_ciphertexts(vault: TokenEncryption) -> None:
    assert vault.encrypt_token("secret", BINDING, 1) != vault.encrypt_token("secret", BINDING, 1)


def test_every_flipped_bit_of_every_byte_is_refused(vault: TokenEncryption) -> None:
    ciphertext = vault.encrypt_token("a-refresh-token", BINDING, 1)

    for position in range(len(ciphertext)):
        for bit in range(8):
            flipped = bytearray(ciphertext)
            flipped[position] ^= 1 << bit
            with pytest.raises(PoisonedCiphertextError):
                vault.decrypt_token(bytes(flipped), BINDING, 1)


def test_every_truncation_is_refused(vault: TokenEncryption) -> None:
    ciphertext = vault.encrypt_token("a-refresh-token", BINDING, 1)

    for length in range(len(ciphertext)):
        with pytest.raises(PoisonedCiphertextError):
            vault.decrypt_token(ciphertext[:length], BINDING, 1)


@pytest.mark.parametrize(
    "other",
    [
        Binding("oauth_code", "user_ada", "integration-1", "access"),
        Binding("token", "user_eve", "integration-1", "access"),
        Binding("token", "user_ada", "integration-2", "access"),
        Binding("token", "user_ada", "integration-1", "refresh"),
        Binding("token", "user_a", "daintegration-1", "access"),
    ],
    ids=["purpose", "user", "place", "kind", "shifted boundary"],
)
def test_ciphertext_moved_to_another_place_is_refused(vault: TokenEncryption, other: Binding) -> None:
    ciphertext = vault.encrypt_token("secret", BINDING, 1)

    with pytest.raises(PoisonedCiphertextError):
        vault.decrypt_token(ciphertext, other, 1)


def test_ciphertext_replayed_under_another_key_version_is_refused(vault: TokenEncryption) -> None:
    ciphertext = vault.encrypt_token("secret", BINDING, 1)

    with pytest.raises(PoisonedCiphertextError):
        vault.decrypt_token(ciphertext, BINDING, 2)


def test_version_that_is_not_held_is_the_operators_error(vault: TokenEncryption) -> None:
    newer = TokenEncryption({**ROOTS, 3: b"\x03" * KEY_BYTES})
    ciphertext = newer.encrypt_token("secret", BINDING, 3)

    with pytest.raises(KeyUnavailableError) as refusal:
        vault.decrypt_token(ciphertext, BINDING, 3)

    assert refusal.value.extra == {"key_version": 3}


def test_mixed_fleet_reads_what_the_other_half_wrote() -> None:
    old_half, new_half = TokenEncryption({1: ROOTS[1]}), TokenEncryption(ROOTS)

    assert new_half.decrypt_token(old_half.encrypt_token("secret", BINDING, 1), BINDING, 1) == "secret"
    assert old_half.decrypt_token(new_half.encrypt_token("secret", BINDING, 1), BINDING, 1) == "secret"
