"""Provider metadata (OpenID Connect Discovery 1.0, RFC 8414)."""

from typing import Any

from services.sandbox.oidc.provider import Provider
from services.sandbox.providers import SCOPES


def metadata(provider: Provider) -> dict[str, Any]:
    """Return the discovery document of a plain provider, one that imitates no real one."""
    issuer = provider.issuer
    authentication = ["client_secret_basic", "client_secret_post"]
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "userinfo_endpoint": f"{issuer}/userinfo",
        "revocation_endpoint": f"{issuer}/revoke",
        "jwks_uri": f"{issuer}/jwks.json",
        "scopes_supported": list(SCOPES),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "token_endpoint_auth_methods_supported": authentication,
        "revocation_endpoint_auth_methods_supported": authentication,
        "code_challenge_methods_supported": ["S256"],
        "authorization_response_iss_parameter_supported": True,
        "claims_supported": ["sub", "email", "email_verified", "name", "picture"],
    }
