"""`python -m benchmarks NAME …`: exit 0 when every bar is met, 1 when one is not or the run could not be made."""

import argparse
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import token_read
from benchmarks.errors import BenchmarkError
from services.devstack.errors import DevstackError

_INTERRUPTED = 130


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1 up")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Figures of the service under load.")
    commands = parser.add_subparsers(required=True, metavar="NAME")
    read = commands.add_parser("token_read", help="the internal token API against a bare ASGI callable")
    read.add_argument("--seconds", type=_positive, default=10, help="length of one run of wrk (default 10)")
    read.add_argument("--rounds", type=_positive, default=3, help="runs per server; the median counts (default 3)")
    read.add_argument("--connections", type=_positive, default=32, help="open at once (default 32)")
    read.add_argument("--users", type=_positive, default=1000, help="connected users (default 1000)")
    read.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**31), help="of users and tokens (default: by lot)"
    )
    read.add_argument("--json", type=Path, metavar="FILE", help="write the result there")
    read.set_defaults(run=_token_read)
    return parser


def _token_read(arguments: argparse.Namespace) -> bool:
    return token_read.run(
        token_read.Options(
            seconds=arguments.seconds,
            rounds=arguments.rounds,
            connections=arguments.connections,
            users=arguments.users,
            seed=arguments.seed,
            json_path=arguments.json,
        )
    )


def _terminate(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)  # an exception, so that SIGTERM stops the servers and removes the folder, as Ctrl-C does


def main() -> int:
    """Run what the arguments name; the exit status."""
    arguments = _parser().parse_args()
    run: Callable[[argparse.Namespace], bool] = arguments.run
    signal.signal(signal.SIGTERM, _terminate)
    try:
        return 0 if run(arguments) else 1
    except KeyboardInterrupt:
        return _INTERRUPTED
    except (BenchmarkError, DevstackError, OSError) as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
