"""The guard of routes that anybody may call; all others declare one of `clerk`, `service_auth`, `webhook_auth`."""


async def public() -> None:
    """Nobody has to be signed in. Declared, so that a route without any guard is a mistake that tests find.

    A coroutine, as every dependency here: FastAPI runs a plain function in a thread, for which /health would wait.
    """
