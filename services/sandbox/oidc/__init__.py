"""An imitated OpenID provider. Its refresh kind, one of four, says what becomes of a refresh token that was used."""
