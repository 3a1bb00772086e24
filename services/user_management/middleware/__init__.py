"""Pure ASGI middleware and handlers of errors. Below CORS a request passes, in this order: context, body limit,
prefix."""
