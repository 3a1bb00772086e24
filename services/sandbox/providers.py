"""What user management needs to connect to the sandbox's plain providers, one for each refresh kind (what becomes of a
refresh token that was used): the OAuth client, the scopes, and a provider file for each kind."""

from pathlib import Path
from typing import Literal, get_args

Kind = Literal["static", "overlap", "grace", "strict"]
KINDS: tuple[Kind, ...] = get_args(Kind)

CLIENT_ID = "sandbox-client"
CLIENT_SECRET = "sbx-cs-not-a-secret-it-only-opens-the-sandbox"  # noqa: S105  public on purpose

SCOPES: dict[str, str] = {
    "openid": "Confirm who you are",
    "email": "See your e-mail address",
    "profile": "See your name and picture",
    "offline_access": "Keep access while you are away",
    "calendar.read": "Read your calendars",
    "calendar.write": "Change your calendars",
    "mail.read": "Read your mail",
}
"""The scopes on offer, and what each one is for."""

_TEMPLATE = """\
name = "sandbox-{kind}"
display_name = "Sandbox ({kind})"
issuer = "{issuer}"
authorization_endpoint = "{issuer}/authorize"
token_endpoint = "{issuer}/token"
userinfo_endpoint = "{issuer}/userinfo"
revocation_endpoint = "{issuer}/revoke"
refresh = "{kind}"
pkce = true
scope_separator = " "
client_authentication = "client_secret_basic"
required_scopes = ["openid", "email", "offline_access"]

[authorization_parameters]
prompt = "consent"

[userinfo]
account_id = "sub"
email = "email"

[scopes]
{scopes}
"""


def provider_name(kind: Kind) -> str:
    """Return the name under which user management knows the plain provider of a kind."""
    return f"sandbox-{kind}"


def provider_file(kind: Kind, base_url: str) -> str:
    """Return the text of the provider file of one kind (TOML). `base_url` is the sandbox's own address."""
    scopes = "\n".join(f'"{name}" = "{purpose}"' for name, purpose in SCOPES.items())
    return _TEMPLATE.format(kind=kind, issuer=f"{base_url.rstrip('/')}/oidc/{kind}", scopes=scopes)


def write_provider_files(folder: Path, base_url: str) -> list[str]:
    """Write `sandbox-<kind>.toml` for every kind into `folder` (made if absent); return the provider names."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (folder / f"{provider_name(kind)}.toml").write_text(provider_file(kind, base_url), encoding="utf-8")
    return [provider_name(kind) for kind in KINDS]
