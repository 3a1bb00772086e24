"""Keyed hashes (HMAC-SHA256) under the signing secret, with a separate key for each purpose (cursors, tickets and
others); also plain hashes, random tokens and PKCE challenges."""

import base64
import hashlib
import hmac
import json
import secrets
from typing import Any
from uuid import UUID

from services.user_management.exceptions import FlowNotFoundError, StartupError, ValidationFailedError
from services.user_management.security.encryption import hkdf_expand


def sha256(text: str) -> bytes:
    """Return the SHA-256 of a secret, 32 bytes. It is stored instead of a secret that only has to be recognised
    later."""
    return hashlib.sha256(text.encode()).digest()


def random_token() -> str:
    """Make a token of 256 random bits, as 43 URL-safe characters."""
    return secrets.token_urlsafe(32)


def base64url(raw: bytes) -> str:
    """Encode as base64url without padding (RFC 7515 section 2)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class Signer:
    """Derives PKCE verifiers, nonces and tombstones (keyed hashes of erased users' subjects), and signs cursors and the
    tickets of flows. A flow is one attempt to connect an account.

    The first of `secrets` signs. Former secrets still verify, and have to be kept for as long as erased users must not
    come back. Raises StartupError if there is no secret.
    """

    def __init__(self, secrets: list[str] | tuple[str, ...]) -> None:
        if not secrets:
            raise StartupError("SIGNING_SECRET: holds no secret")
        self._roots = [hashlib.sha256(secret.encode()).digest() for secret in secrets]

    def _mac(self, purpose: str, message: bytes) -> bytes:
        return self._macs(purpose, message)[0]

    def _macs(self, purpose: str, message: bytes) -> list[bytes]:
        """Compute the MAC under each secret; the first is that of the secret that signs."""
        return [hmac.digest(hkdf_expand(root, purpose.encode()), message, "sha256") for root in self._roots]

    def pkce_verifier(self, state_hash: bytes) -> str:
        """Return the code verifier of a flow, 43 characters (RFC 7636 section 4.1). `state_hash` is the SHA-256 of the
        flow's `state`.

        The verifier is derived and not stored, so that somebody who can read the database cannot use a flow's row.
        """
        return base64url(self._mac("pkce", state_hash))

    def nonce(self, state_hash: bytes) -> str:
        """Return the nonce that the ID token of a flow must repeat (OpenID Connect Core section 3.1.2.1). It is derived
        from `state_hash`, as the code verifier is."""
        return base64url(self._mac("nonce", state_hash))

    def flow_ticket(self, flow_id: UUID) -> str:
        """Return the ticket that the browser takes along when it comes back from the provider: the flow's id and a
        proof that only we can make.

        The person who started the flow knows its id. The proof is given only to the browser in which somebody
        consented, so an attacker who starts a flow and makes a victim consent in another browser never sees it.
        """
        return self._flow_tickets(flow_id)[0]

    def _flow_tickets(self, flow_id: UUID) -> list[str]:
        return [f"{flow_id}.{base64url(mac)}" for mac in self._macs("flow", flow_id.bytes)]

    def read_flow_ticket(self, ticket: str) -> UUID:
        """Return the flow's id from a ticket. Raises FlowNotFoundError for a ticket that we did not make."""
        try:
            flow_id = UUID(ticket.partition(".")[0])
        except ValueError:
            raise FlowNotFoundError from None
        matches = [hmac.compare_digest(known.encode(), ticket.encode()) for known in self._flow_tickets(flow_id)]
        if not any(matches):
            raise FlowNotFoundError
        return flow_id

    def subject_tombstones(self, issuer: str, subject: str) -> list[bytes]:
        """Return the keyed hashes of an erased subject, by which it is recognised but cannot be read. The first is the
        one to write; the others may have been written under former secrets."""
        return self._macs("tombstone", json.dumps([issuer, subject]).encode())

    def encode_cursor(self, scope: str, position: list[Any]) -> str:
        """Make an opaque cursor for `position`, which must be serialisable as JSON, that is valid only for the list
        `scope`. The position is signed, not encrypted."""
        payload = json.dumps(position, separators=(",", ":"), ensure_ascii=False).encode()
        return base64url(self._mac(f"cursor:{scope}", payload)[:16] + payload)

    def decode_cursor(self, scope: str, cursor: str) -> list[Any]:
        """Return the position in `cursor`. Raises ValidationFailedError for one that we did not make for `scope`."""
        try:
            raw = base64.b64decode(cursor.encode() + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        except ValueError:
            raw = b""
        signature, payload = raw[:16], raw[16:]
        matches = [hmac.compare_digest(signature, mac[:16]) for mac in self._macs(f"cursor:{scope}", payload)]
        if not any(matches):
            raise ValidationFailedError("The cursor is not one of ours; start from the first page.")
        position: list[Any] = json.loads(payload)
        return position


def pkce_challenge(verifier: str) -> str:
    """Return the S256 code challenge of a verifier (RFC 7636 section 4.2)."""
    return base64url(sha256(verifier))
