"""Entry point of `./run` (`python -m services.devstack`): runs the development stack (the service, its servers and the
sandbox) in the foreground, or with the argument `demo` the demo."""

import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from dotenv import dotenv_values

from services.devstack import demo, folders, ports
from services.devstack.errors import DevstackError
from services.devstack.preparation import Recipe
from services.devstack.running_service import REPOSITORY
from services.devstack.stack import THE_SERVICE, Console, Stack

DEFAULT_PORT, DEFAULT_SANDBOX_PORT = "8000", "8001"
USAGE_ERROR = 2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """Raised when a signal asks this process to end."""


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)  # once is enough: stopping takes at most 10 s and must not be cut short
    raise Interrupted


def say(text: str) -> None:
    """Print a line and flush it, so that the developer sees it at once."""
    print(text, flush=True)


def _data_dir(variables: Mapping[str, str]) -> Path:
    if chosen := variables.get("DATA_DIR"):
        return Path(chosen).expanduser().absolute()
    folder = folders.default_data_dir(REPOSITORY)
    if folder.parent != REPOSITORY:
        say(f"Postgres, which does not run as root, cannot enter {REPOSITORY}: data is kept in {folder}")
    return folder


def _stack(recipe: Recipe) -> Stack:
    # The service reads `.env` too, but the environment that we give it would override that.
    file = {name: value for name, value in dotenv_values(REPOSITORY / ".env").items() if value is not None}
    variables = {**file, **os.environ}
    return Stack(
        _data_dir(variables),
        port=ports.parse_port(variables.get("PORT") or DEFAULT_PORT, variable="PORT"),
        sandbox_port=ports.parse_port(variables.get("SANDBOX_PORT") or DEFAULT_SANDBOX_PORT, variable="SANDBOX_PORT"),
        env=variables,
        console=Console(progress=say, show_output=True),
        recipe=recipe,
    )


def _summary(stack: Stack) -> str:
    return f"""
  API          {stack.api_url}
  reference    {stack.api_url}/docs
  sign in      {stack.sandbox_url}/sign-in
  ledger       {stack.sandbox_url}/_ledger.html   the calls that the sandbox received
  service key  {stack.service_key}
  database     {stack.environment["DATABASE_URL"]}
  data, logs   {stack.data_dir}
  Ctrl-C stops everything.

ready {stack.api_url}"""


def run(recipe: Recipe = THE_SERVICE) -> int:
    """Run the stack until a signal (return 0) or a failure (print it and return 1). Either way, nothing is left
    running."""
    for signum in _SIGNALS:
        signal.signal(signum, _interrupt)
    try:
        with _stack(recipe) as stack:
            try:
                say(_summary(stack))
                stack.wait()
            finally:
                say("stopping …")
    except Interrupted:
        return 0
    except (DevstackError, OSError) as error:
        print(f"run: {error}", file=sys.stderr)
        return 1
    return 0


def main() -> int:
    """Run the stack, or the demo if the only argument is `demo`, and return the exit status: 2 for other arguments."""
    if sys.argv[1:] == ["demo"]:
        return demo.main()
    if sys.argv[1:]:
        print("usage: ./run [demo]", file=sys.stderr)
        return USAGE_ERROR
    return run()


if __name__ == "__main__":
    sys.exit(main())
