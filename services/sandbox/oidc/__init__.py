"""An OpenID provider whose refresh behaviour is one of four kinds."""
