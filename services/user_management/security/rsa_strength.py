"""Tells which RSA public keys are too weak to trust, as far as the public part shows it."""

from typing import Final

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 8192
"""The largest modulus that is accepted. A larger one only costs time: with 16,384 bits a verification takes over 1
ms."""
_MIN_EXPONENT: Final = 2**16
_MAX_EXPONENT: Final = 2**256
_ROCA_GENERATOR: Final = 65537
_SMALL_PRIMES: Final = [prime for prime in range(3, 168) if all(prime % divisor for divisor in range(2, prime))]
_ROCA_RESIDUES: Final = {
    prime: frozenset(pow(_ROCA_GENERATOR, power, prime) for power in range(prime - 1)) for prime in _SMALL_PRIMES
}


def is_strong(key: RSAPublicKey) -> bool:
    """Tell whether a key has a size from 2048 to 8192 bits and the exponent of FIPS 186-5 section 5.1 (2^16 < e <
    2^256), and was not made by the broken generator of CVE-2017-15361.

    An even exponent need not be checked: the library `cryptography` refuses it in a JWK and in a PEM.
    """
    numbers = key.public_numbers()
    return (
        MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS
        and _MIN_EXPONENT < numbers.e < _MAX_EXPONENT
        and not _has_roca_fingerprint(numbers.n)
    )


def _has_roca_fingerprint(modulus: int) -> bool:
    """Tell whether a modulus looks like one of the broken Infineon generator (CVE-2017-15361).

    Its primes are powers of 65537 modulo every small prime, and so is their product. A sound modulus looks the same by
    chance less than once in 2^27 (Nemec et al., "The Return of Coppersmith's Attack", CCS 2017, section 3.2).
    """
    return all(modulus % prime in residues for prime, residues in _ROCA_RESIDUES.items())
