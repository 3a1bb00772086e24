"""Tests of the vault's cryptography: what was encrypted is read back, one by one and in batches, and a ciphertext that
was changed, moved or put under another key version is refused."""

import hashlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.user_management.exceptions import KeyUnavailableError, PoisonedCiphertextError
from services.user_management.security.encryption import (
    KEY_BYTES,
    PBKDF2_ITERATIONS,
    Binding,
    Sealed,
    TokenEncryption,
    derive_root_key,
)

ROOTS = {1: b"\x01" * KEY_BYTES, 2: b"\x02" * KEY_BYTES}
BINDING = Binding(purpose="token", user_id="user_ada", place="integration-1", kind="access")


@pytest.fixture
def vault() -> TokenEncryption:
    return TokenEncryption(ROOTS)


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


def test_every_extension_is_refused(vault: TokenEncryption) -> None:
    ciphertext = vault.encrypt_token("a-refresh-token", BINDING, 1)

    for extension in (b"\x00", b"\x00" * 16, ciphertext):
        for longer in (ciphertext + extension, extension + ciphertext):
            with pytest.raises(PoisonedCiphertextError):
                vault.decrypt_token(longer, BINDING, 1)


@pytest.mark.parametrize("version", [0, 2, 3, 2**32 - 1])
def test_header_that_names_another_key_version_is_refused(vault: TokenEncryption, version: int) -> None:
    ciphertext = vault.encrypt_token("secret", BINDING, 1)
    relabelled = ciphertext[:1] + version.to_bytes(4, "big") + ciphertext[5:]

    for stored_with in (1, 2):
        with pytest.raises(PoisonedCiphertextError):
            vault.decrypt_token(relabelled, BINDING, stored_with)


def test_batch_gives_what_one_by_one_gives(vault: TokenEncryption) -> None:
    bindings = [replace(BINDING, user_id=f"user_{number % 3}", place=str(number)) for number in range(9)]
    texts = [f"secret {number}" for number in range(9)]

    sealed = [vault.encrypt_token(text, binding, 2) for text, binding in zip(texts, bindings, strict=True)]
    opened = vault.decrypt_many([Sealed(one, binding, 2) for one, binding in zip(sealed, bindings, strict=True)])

    assert opened == texts


def test_batch_derives_the_key_of_a_user_once(vault: TokenEncryption, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [Sealed(vault.encrypt_token("secret", BINDING, 1), BINDING, 1) for _ in range(5)]
    derived: list[tuple[str, int]] = []
    derive = vault.derive_user_key

    def count(user_id: str, version: int) -> bytes:
        derived.append((user_id, version))
        return derive(user_id, version)

    monkeypatch.setattr(vault, "derive_user_key", count)

    vault.reencrypt_many(items, 2)

    assert derived == [("user_ada", 1), ("user_ada", 2)]


def test_batch_goes_on_behind_what_cannot_be_read(vault: TokenEncryption) -> None:
    good = Sealed(vault.encrypt_token("secret", BINDING, 1), BINDING, 1)
    items = [good, replace(good, ciphertext=b""), replace(good, version=9), good]

    first, poisoned, missing, last = vault.reencrypt_many(items, 2)

    assert isinstance(poisoned, PoisonedCiphertextError)
    assert isinstance(missing, KeyUnavailableError)
    for renewed in (first, last):
        assert isinstance(renewed, bytes)
        assert vault.decrypt_token(renewed, BINDING, 2) == "secret"
