"""Runs one benchmark: `python -m benchmarks NAME …`.

Exits with 0 when no limit is broken (with `chaos --naive`: when every promise that has to be broken is broken), with 1
otherwise or when the run could not be made, with 2 for wrong arguments, with 130 after Ctrl-C and with 143 after
SIGTERM.
"""

import argparse
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from benchmarks import (
    connection_scale,
    hostile_bodies,
    key_rotation,
    profile_read,
    rate_limit_memory,
    refresh_backlog,
    token_load,
    token_read,
    token_read_profile,
    user_scale,
    webhook_burst,
)
from benchmarks.chaos import run as chaos
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
    layers = commands.add_parser("token_read_profile", help="where the CPU of a token read goes, by layer")
    _add_comparison(layers, token_read_profile.run)
    load = commands.add_parser("token_load", help="300 token reads a second for ten minutes, each recorded once")
    _add_token_load(load)
    profile = commands.add_parser("profile_read", help="GET /users/me against a bare ASGI callable")
    _add_comparison(profile, profile_read.run)
    scale = commands.add_parser("user_scale", help="the same requests among a thousand users and among a million")
    _add_user_scale(scale)
    connections = commands.add_parser(
        "connection_scale", help="the same token reads among a thousand integrations and among a million"
    )
    _add_connection_scale(connections)
    burst = commands.add_parser("webhook_burst", help="a thousand webhooks, each twice, in ten seconds")
    _add_webhook_burst(burst)
    rotation = commands.add_parser(
        "key_rotation", help="a rotation of the vault's keys under reads, killed half way and resumed"
    )
    _add_key_rotation(rotation)
    memory = commands.add_parser("rate_limit_memory", help="what a million callers cost the rate limiter")
    _add_rate_limit_memory(memory)
    backlog = commands.add_parser("refresh_backlog", help="ten thousand integrations whose tokens run out at once")
    _add_refresh_backlog(backlog)
    hostile = commands.add_parser(
        "hostile_bodies",
        help="the latency of /health and the memory while strangers send the worst bodies, queries and heads",
    )
    _add_hostile_bodies(hostile)
    harm = commands.add_parser(
        "chaos", help="kills, races, restarts, outages and bad answers while tokens are refreshed"
    )
    _add_chaos(harm)
    return parser


def _add_comparison(command: argparse.ArgumentParser, run: Callable[[Options], bool]) -> None:
    command.add_argument("--seconds", type=_positive, default=10, help="length of one run of wrk (default 10)")
    command.add_argument("--rounds", type=_positive, default=3, help="runs per server; the median counts (default 3)")
    command.add_argument("--connections", type=_positive, default=32, help="connections open at once (default 32)")
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
    command.add_argument(
        "--users", type=_positive, default=_MILLION, help="users of the large deployment (default a million)"
    )
    command.add_argument("--requests", type=_positive, default=300, help="measured requests of each case (default 300)")
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return user_scale.run(
            user_scale.Options(
                users=arguments.users, requests=arguments.requests, seed=arguments.seed, json_path=arguments.json
            )
        )

    command.set_defaults(run=start)


def _add_connection_scale(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--connections",
        type=_positive,
        default=_MILLION,
        help="integrations, and users, of the large deployment (default a million)",
    )
    command.add_argument("--requests", type=_positive, default=300, help="measured requests of each case (default 300)")
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return connection_scale.run(
            connection_scale.Options(
                connections=arguments.connections,
                requests=arguments.requests,
                seed=arguments.seed,
                json_path=arguments.json,
            )
        )

    command.set_defaults(run=start)


def _add_token_load(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seconds", type=_positive, default=600, help="length of the load (default 600)")
    command.add_argument("--rate", type=_positive, default=300, help="reads per second (default 300)")
    command.add_argument("--users", type=_positive, default=5000, help="users (default 5000)")
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return token_load.run(
            token_load.Options(
                seconds=arguments.seconds,
                rate=arguments.rate,
                users=arguments.users,
                seed=arguments.seed,
                json_path=arguments.json,
            )
        )

    command.set_defaults(run=start)


def _add_webhook_burst(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--messages", type=_positive, default=1000, help="webhooks, each delivered twice (default 1000)"
    )
    command.add_argument("--rate", type=_positive, default=200, help="deliveries per second (default 200)")
    command.add_argument("--connections", type=_positive, default=16, help="connections open at once (default 16)")
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


def _add_key_rotation(command: argparse.ArgumentParser) -> None:
    command.add_argument("--tokens", type=_positive, default=100_000, help="tokens to encrypt anew (default 100,000)")
    command.add_argument(
        "--quiet-seconds", type=_positive, default=20, help="length of the reads before the rotation (default 20)"
    )
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return key_rotation.run(
            key_rotation.Options(
                tokens=arguments.tokens,
                quiet_seconds=arguments.quiet_seconds,
                seed=arguments.seed,
                json_path=arguments.json,
            )
        )

    command.set_defaults(run=start)


def _add_rate_limit_memory(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--keys", type=_positive, default=_MILLION, help="keys counted in the process alone (default a million)"
    )
    command.add_argument(
        "--redis-keys", type=_positive, default=_MILLION, help="keys counted in Redis (default a million)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")

    def start(arguments: argparse.Namespace) -> bool:
        return rate_limit_memory.run(
            rate_limit_memory.Options(keys=arguments.keys, redis_keys=arguments.redis_keys, json_path=arguments.json)
        )

    command.set_defaults(run=start)


def _add_refresh_backlog(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--connections", type=_positive, default=10_000, help="integrations that are due (default 10,000)"
    )
    command.add_argument(
        "--spread", type=int, default=600, help="seconds over which the job spreads them (default 600)"
    )
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return refresh_backlog.run(
            refresh_backlog.Options(
                connections=arguments.connections,
                spread_seconds=arguments.spread,
                seed=arguments.seed,
                json_path=arguments.json,
            )
        )

    command.set_defaults(run=start)


def _add_hostile_bodies(command: argparse.ArgumentParser) -> None:
    command.add_argument("--seconds", type=_positive, default=10, help="length of each attack (default 10)")
    command.add_argument("--strangers", type=_positive, default=32, help="clients of a kind at once (default 32)")
    command.add_argument(
        "--hang-ups", type=_positive, default=200, help="requests that end in the middle of their body (default 200)"
    )
    command.add_argument("--megabytes", type=_positive, default=32, help="size of one request head (default 32)")
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return hostile_bodies.run(
            hostile_bodies.Options(
                seconds=arguments.seconds,
                strangers=arguments.strangers,
                hang_ups=arguments.hang_ups,
                megabytes=arguments.megabytes,
                seed=arguments.seed,
                json_path=arguments.json,
            )
        )

    command.set_defaults(run=start)


def _add_chaos(command: argparse.ArgumentParser) -> None:
    command.add_argument("--quick", action="store_true", help="a few of everything, in less than three minutes")
    command.add_argument(
        "--naive",
        action="store_true",
        help="with a refresher without lease and fence, which has to fail R1, R2, R4, R5 and R8",
    )
    command.add_argument(
        "--ledgers", type=Path, metavar="FOLDER", help="keep the driver's and the provider's ledger there"
    )
    _add_result(command)

    def start(arguments: argparse.Namespace) -> bool:
        return chaos.run(
            chaos.Options(
                quick=arguments.quick,
                naive=arguments.naive,
                seed=arguments.seed,
                json_path=arguments.json,
                ledgers=arguments.ledgers,
            )
        )

    command.set_defaults(run=start)


def _add_result(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--seed", type=int, default=secrets.randbelow(2**31), help="seed of every random choice (default: random)"
    )
    command.add_argument("--json", type=Path, metavar="FILE", help="write the result to FILE")


def _terminate(signum: int, _frame: FrameType | None) -> None:
    sys.exit(128 + signum)  # an exception, so that SIGTERM stops the servers and removes the folder, as Ctrl-C does


def main() -> int:
    """Run the benchmark that the command line names and return the exit status."""
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
