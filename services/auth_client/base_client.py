"""The base class of the synchronous and the asynchronous client."""

import os
from typing import Final, Self

from services.auth_client.endpoint import Endpoint
from services.auth_client.exchange import Exchange
from services.auth_client.options import ClientOptions

URL_VARIABLE: Final = "USER_MANAGEMENT_URL"
KEY_VARIABLE: Final = "USER_MANAGEMENT_KEY"


class BaseTokenClient:
    """Base of both clients: construction, and the methods that need no network."""

    def __init__(self, base_url: str, service_key: str, *, options: ClientOptions | None = None) -> None:
        self._options = options or ClientOptions()
        self._endpoint = Endpoint(base_url, service_key, self._options)
        self._exchange = Exchange(self._options)

    @classmethod
    def from_environment(cls, *, options: ClientOptions | None = None) -> Self:
        """Create a client with the address and the key in the variables USER_MANAGEMENT_URL and USER_MANAGEMENT_KEY.
        Nothing else in this package reads the environment.

        Raises ValueError, which names the variable, if one is missing or empty; otherwise the same errors as creating
        a client with that address and key.
        """
        return cls(_variable(URL_VARIABLE), _variable(KEY_VARIABLE), options=options)

    def forget(self, user_id: str, provider: str | None = None) -> None:
        """Drop the remembered tokens of a user, of one provider or (None) of all, for instance on the event
        `integration.revoked`. The answers to requests that are under way, for whichever user, will not be remembered.
        Pass the same `user_id` as in the requests: tokens that were asked for by the user's subject at the issuer are
        not found by the user's id."""
        self._exchange.memory.forget(user_id, provider)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._endpoint.url!r})"


def _variable(name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise ValueError(f"{name} is not set")
    return value
