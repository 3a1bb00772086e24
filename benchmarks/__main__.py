"""`python -m benchmarks NAME …`: exit 0 when every bar is met, 1 when one is not or the run could not be made."""

import argparse
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import profile_read, rate_limit_memory, token_read, user_scale, webhook_burst
from benchmarks.comparison import Options
from benchmarks.errors import BenchmarkError
from services.devstack.errors import DevstackError

_INTERRUPTED = 130
_MILLION = 1_000_000


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number from 1 up")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Figures of the service under load.")
    commands = parser.add_subparsers(required=True, metavar="NAME")
    read = commands.add_parser("token_read", help="the internal token API against a bare ASGI callable")
    _add_comparison(read, token_read.run)
    profile = commands.add_parser("profile_read", help="GET /users/me against a bare ASGI callable")
    _add_comparison(profile, profile_read.run)
    scale = commands.add_parser("user_scale", help="the same requests among a thousand users and among a million")
    _add_user_scale(scale)
    burst = commands.add_parser("webhook_burst", help="a thousand webhooks, each twice, in ten seconds")
    _add_webhook_burst(burst)
    memory = commands.add_parser("rate_limit_memory", help="what a million callers cost the rate limiter")
    _add_rate_limit_memory(memory)
    return parser


def _add_comparison(command: argparse.ArgumentParser, run: Callable[[Options], bool]) -> None:
    command.add_argument("--seconds", type=_positive, default=10, help="length of one run of wrk (default 10)")
    command.add_argument("--rounds", type=_positive, default=3, help="runs per server; the median counts (default 3)")
    command.add_argument("--connections", type=_positive, default=32, help="open at once (default 32)")
    command.add_argument("--users", type=_positive, default=1000, help="users (default 1000)")
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return run(
            Options(
                seconds=arguments.seconds,
                rounds=arguments.rounds,
                connections=arguments.connections,
                users=arguments.users,
                seed=arguments.seed,
                json_path=arguments.json,
            )
        )

    command.set_defaults(run=start)


def _add_user_scale(command: argparse.ArgumentParser) -> None:
    command.add_argument("--users", type=_positive, default=_MILLION, help="of the large one (default a million)")
    command.add_argument("--requests", type=_positive, default=300, help="measured of each case (default 300)")
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return user_scale.run(
            user_scale.Options(
                users=arguments.users, requests=arguments.requests, seed=arguments.seed, json_path=arguments.json
            )
        )

    command.set_defaults(run=start)


def _add_webhook_burst(command: argparse.ArgumentParser) -> None:
    command.add_argument("--messages", type=_positive, default=1000, help="delivered twice each (default 1000)")
    command.add_argument("--rate", type=_positive, default=200, help="deliveries per second (default 200)")
    command.add_argument("--connections", type=_positive, default=16, help="open at once (default 16)")
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return webhook_burst.run(
            webhook_burst.Options(
                messages=arguments.messages,
                rate=arguments.rate,
                connections=arguments.connections,
                seed=arguments.seed,
                json_path=arguments.json,
            )
        )

    command.set_defaults(run=start)


def _add_rate_limit_memory(command: argparse.ArgumentParser) -> None:
    command.add_argument("--keys", type=_positive, default=_MILLION, help="in the process (default a million)")
    command.add_argument("--redis-keys", type=_positive, default=_MILLION, help="in Redis (default a million)")
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result there")

    def start(arguments: argparse.Namespace) -> bool:
        return rate_limit_memory.run(
            rate_limit_memory.Options(keys=arguments.keys, redis_keys=arguments.redis_keys, json_path=arguments.json)
        )

    command.set_defaults(run=start)


def _add_result(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**31), help="of all that is left to chance (default: by lot)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result there")


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
