"""The OAuth and OpenID providers of the sandbox. The refresh kind of a provider, one of four, says what becomes of a
refresh token that was used."""
