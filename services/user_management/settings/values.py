"""Functions that read and check the values of single environment variables, and the types of settings that use them.
Their errors never quote a secret."""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, SecretStr

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class QuotaPolicy:
    """A token-bucket quota: up to `limit` requests may be made at once. Used-up requests become available again at an
    even rate, all `limit` of them within `window_seconds`."""

    limit: int
    window_seconds: int


def parse_json(value: object) -> object:
    """Parse JSON from the environment; anything but text is returned unchanged. Raises ValueError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON: {error.msg} at character {error.pos}") from None


def parse_list(value: object) -> object:
    """Parse a JSON list, or plain values separated by commas; anything but text is returned unchanged. Raises
    ValueError."""
    if isinstance(value, str) and not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",") if part.strip()]
    return parse_json(value)


def database_url(url: SecretStr) -> SecretStr:
    if not re.match(r"postgres(ql)?(\+[a-z0-9]+)?://", url.get_secret_value()):
        raise ValueError("must begin with postgresql://")
    return url


def redis_url(url: SecretStr) -> SecretStr:
    if not url.get_secret_value().startswith(("redis://", "rediss://", "unix://")):
        raise ValueError("must begin with redis://, rediss:// or unix://")
    return url


def webhook_secrets(secrets: SecretStr) -> SecretStr:
    for secret in secrets.get_secret_value().split():
        prefix, _, encoded = secret.partition("_")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            key = b""
        if prefix != "whsec" or len(key) < 16:
            raise ValueError("must be whsec_ and base64 of at least 16 bytes")
    return secrets


def public_key(pem: str | None) -> str | None:
    if pem is not None and "-----BEGIN PUBLIC KEY-----" not in pem:
        raise ValueError("is not a PEM public key")
    return pem


def folder(path: Path | None) -> Path | None:
    if path is not None and not path.is_dir():
        raise ValueError(f"{path} is not a folder")
    return path


def read_key_map(path: Path) -> dict[object, object]:
    """Read the JSON object of a key file, without checking its members. Raises ValueError, which says what is wrong and
    never quotes a key."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        raise ValueError(f"{path} is not JSON") from None
    if not isinstance(document, dict):
        raise ValueError("is not a JSON object of version to base64")
    return document


def decode_key_map(keys: object) -> dict[int, bytes]:
    """Decode the base64 values of a key map into secrets of 32 bytes. Raises ValueError naming the version (never the
    value)."""
    decoded: dict[int, bytes] = {}
    if not isinstance(keys, dict):
        raise ValueError("is not a JSON object of version to base64")
    for version, value in keys.items():
        raw = value.encode() if isinstance(value, str) else b""
        try:
            secret = base64.b64decode(raw, validate=True)
        except binascii.Error:
            raise ValueError(f"version {version} is not base64") from None
        if len(secret) != 32:
            raise ValueError(f"version {version} is {len(secret)} bytes, 32 are needed")
        decoded[_key_version(version)] = secret
    return decoded


def wrapped_key_map(keys: object) -> dict[int, bytes]:
    """Return the texts of wrapped (encrypted) secrets, by key version, as their key source wrote them. Raises
    ValueError naming the version (never the value)."""
    if not isinstance(keys, dict):
        raise ValueError("is not a JSON object of version to wrapped secret")
    for version, value in keys.items():
        if not isinstance(value, str) or not value.isascii() or not value.strip():
            raise ValueError(f"version {version} is not the text of a wrapped secret")
    return {_key_version(version): value.strip().encode() for version, value in keys.items()}


def _key_version(version: object) -> int:
    if not str(version).isdecimal() or not 1 <= int(str(version)) < 2**31:
        raise ValueError(f"version {version} is not a positive number")
    return int(str(version))


def parse_quota_policy(value: object) -> object:
    """Parse `COUNT/SECONDS`; anything but text is returned unchanged. COUNT is at most a million: with a window of one
    second a request then comes back after a microsecond, our unit of time. Raises ValueError."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"([1-9][0-9]{0,6})/([1-9][0-9]{0,4})", value.strip())
    if match is None or int(match[1]) > 1_000_000 or int(match[2]) > 86_400:
        raise ValueError("must be COUNT/SECONDS (100/60), at most 1000000 in at most 86400 seconds")
    return QuotaPolicy(int(match[1]), int(match[2]))


def parse_networks(value: object) -> object:
    """Parse networks, as a JSON list or separated by commas or spaces; a single address is a network of one. Raises
    ValueError, also for a network of all addresses."""
    if isinstance(value, str):
        value = parse_json(value) if value.lstrip().startswith("[") else re.split(r"[,\s]+", value.strip())
    if not isinstance(value, list):
        return value
    try:
        networks = tuple(ip_network(str(text)) for text in value if text != "")
    except ValueError as error:
        raise ValueError(f"must be networks (10.0.0.0/8): {error}") from None
    if any(network.prefixlen == 0 for network in networks):
        raise ValueError("trusts everybody: whoever calls could then claim any address")
    return networks


TextList = Annotated[list[str], BeforeValidator(parse_list)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(database_url)]
NetworkList = Annotated[tuple[Network, ...], BeforeValidator(parse_networks)]
Quota = Annotated[QuotaPolicy, BeforeValidator(parse_quota_policy)]
