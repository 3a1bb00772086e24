"""Pure ASGI middleware, from the outside in: context, body limit, prefix."""
