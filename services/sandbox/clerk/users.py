"""Clerk's user object, in the shape that its webhooks and its Backend API share (schema of 2025-04-15)."""

import secrets
import time
from typing import Any, Final

ClerkUser = dict[str, Any]

OPTIONAL_KEYS: Final = frozenset(
    {"deprovisioned", "password_last_updated_at", "organization_memberships", "bypass_client_trust", "scim"}
)
"""Keys that Clerk sends only for some users."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def clerk_id(prefix: str) -> str:
    """Return a new id in Clerk's format: prefix, underscore, 27 alphanumeric characters."""
    return f"{prefix}_{''.join(secrets.choice(_ALPHABET) for _ in range(27))}"


def milliseconds() -> int:
    """Return the present Unix time in milliseconds, the unit of Clerk's timestamps."""
    return time.time_ns() // 1_000_000


def email_address(email: str, *, verified: bool, now: int) -> dict[str, Any]:
    """Return one entry of a user's `email_addresses`. `now` is in milliseconds, as everywhere in this file."""
    return {
        "id": clerk_id("idn"),
        "object": "email_address",
        "email_address": email,
        "reserved": False,
        "linked_to": [],
        "matches_sso_connection": False,
        "created_at": now,
        "updated_at": now,
        "verification": {
            "object": "verification_otp",
            "status": "verified" if verified else "unverified",
            "strategy": "email_code",
            "attempts": 1,
            "expire_at": now + 600_000,
        },
    }


def phone_number(number: str, *, now: int) -> dict[str, Any]:
    """Return one entry of a user's `phone_numbers`, already verified."""
    return {
        "id": clerk_id("idn"),
        "object": "phone_number",
        "phone_number": number,
        "reserved_for_second_factor": False,
        "default_second_factor": False,
        "reserved": False,
        "linked_to": [],
        "backup_codes": None,
        "created_at": now,
        "updated_at": now,
        "verification": {
            "object": "verification_otp",
            "status": "verified",
            "strategy": "phone_code",
            "attempts": 1,
            "expire_at": now + 600_000,
        },
    }


def new_user(user_id: str, *, now: int) -> ClerkUser:
    """Return a user without e-mail address and phone number: every key of the schema, with its value for a new user."""
    image_url = f"https://img.sandbox.example/{user_id}"
    return {
        "id": user_id,
        "object": "user",
        "external_id": None,
        "username": None,
        "first_name": None,
        "last_name": None,
        "locale": None,
        "image_url": image_url,
        "profile_image_url": image_url,
        "has_image": True,
        "primary_email_address_id": None,
        "primary_phone_number_id": None,
        "primary_web3_wallet_id": None,
        "email_addresses": [],
        "phone_numbers": [],
        "web3_wallets": [],
        "passkeys": [],
        "external_accounts": [],
        "saml_accounts": [],
        "enterprise_accounts": [],
        "public_metadata": {},
        "private_metadata": {},
        "unsafe_metadata": {},
        "password_enabled": True,
        "two_factor_enabled": False,
        "totp_enabled": False,
        "backup_code_enabled": False,
        "mfa_enabled_at": None,
        "mfa_disabled_at": None,
        "banned": False,
        "locked": False,
        "lockout_expires_in_seconds": None,
        "verification_attempts_remaining": 100,
        "delete_self_enabled": True,
        "create_organization_enabled": True,
        "create_organizations_limit": None,
        "last_sign_in_at": None,
        "last_active_at": now,
        "legal_accepted_at": None,
        "created_at": now,
        "updated_at": now,
    }


def _set_email(user: ClerkUser, email: str | None, *, verified: bool, now: int) -> None:
    entry = email_address(email, verified=verified, now=now) if email else None
    user["email_addresses"] = [entry] if entry else []
    user["primary_email_address_id"] = entry["id"] if entry else None


def _set_verification(user: ClerkUser, *, verified: bool) -> None:
    for address in user["email_addresses"]:
        if address["id"] == user["primary_email_address_id"]:
            address["verification"]["status"] = "verified" if verified else "unverified"


def _set_phone(user: ClerkUser, phone: str | None, *, now: int) -> None:
    entry = phone_number(phone, now=now) if phone else None
    user["phone_numbers"] = [entry] if entry else []
    user["primary_phone_number_id"] = entry["id"] if entry else None


def change_user(user: ClerkUser, changes: dict[str, Any], *, now: int) -> None:
    """Apply changes to a user in place. `email` and `phone` become the only e-mail address and phone number, and `None`
    removes them; `email_verified` (true for a new address by default) applies to the primary e-mail address;
    `image_url` also sets `profile_image_url` and `has_image`; every other key is set in the user object as it is.

    Raises `KeyError` for any other key that is neither in the user object nor in `OPTIONAL_KEYS`; e-mail address, phone
    number, `profile_image_url` and `has_image` are changed by then.
    """
    remaining = dict(changes)
    verified = remaining.pop("email_verified", None)
    if "email" in remaining:
        _set_email(user, remaining.pop("email"), verified=verified is not False, now=now)
    elif verified is not None:
        _set_verification(user, verified=verified)
    if "phone" in remaining:
        _set_phone(user, remaining.pop("phone"), now=now)
    if "image_url" in remaining:
        user["profile_image_url"] = remaining["image_url"]
        user["has_image"] = remaining["image_url"] is not None
    unknown = remaining.keys() - user.keys() - OPTIONAL_KEYS
    if unknown:
        raise KeyError(f"a Clerk user has no key {', '.join(sorted(unknown))}")
    user.update(remaining)


def primary_email(user: ClerkUser) -> str | None:
    """Return the primary e-mail address; `None` if there is none."""
    addresses = (one for one in user["email_addresses"] if one["id"] == user["primary_email_address_id"])
    return next((str(one["email_address"]) for one in addresses), None)
