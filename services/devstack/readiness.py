"""Checks of whether a process of the stack is ready."""

import http.client
import urllib.error
import urllib.request
from http import HTTPStatus

from services.devstack.errors import DevstackError
from services.devstack.ports import is_served_by
from services.devstack.running_service import RunningService

_ANSWER_TIMEOUT = 2.0
# The developer's proxy, if there is one, must not be asked for what runs on loopback.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_ready(running: RunningService) -> bool:
    """Tell whether the process is ready now, as its plan (`running.service`) defines it. Raises `DevstackError` when
    another program answers on its port."""
    service = running.service
    if service.ready_text is not None:
        return running.said_ready.is_set()
    if service.ready_url is None:
        return True
    if not answers(service.ready_url):
        return False
    if service.port is not None and not is_served_by(service.port, running.child.pid):
        raise DevstackError(f"another program than our {service.name} answers on port {service.port}")
    return True


def answers(url: str) -> bool:
    """Tell whether GET `url` gives 200 within 2 s."""
    try:
        with _direct.open(url, timeout=_ANSWER_TIMEOUT) as response:
            return bool(response.status == HTTPStatus.OK)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False
