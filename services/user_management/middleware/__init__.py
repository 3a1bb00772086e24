"""Pure ASGI middleware, from the outside in (below CORS): context, body limit, prefix."""
