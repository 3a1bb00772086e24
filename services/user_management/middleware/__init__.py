"""Pure ASGI middleware, and the handlers of errors. A request passes, in this order: CORS, context, body limit,
prefix."""
