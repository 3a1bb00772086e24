"""Measures `GET /users/me` with a session token: the service, as in production, against its floor (a bare server that
does the least work that such a request needs)."""

from pathlib import Path
from typing import Final

from benchmarks import comparison, wrk
from benchmarks.comparison import Comparison, Measurement, Options
from benchmarks.deployment import NOBODY_REFUSED, deployed
from benchmarks.report import Circumstances
from benchmarks.seeding import seeded_users
from benchmarks.sessions import SessionIssuer

PATH: Final = "/users/me"
MINIMUM_RATIO_PERCENT: Final = 55.0
_ALL_ACTIVE: Final = "UPDATE users SET last_active_at = now()"
"""Sets every user's last activity to now.

The first request of a user in five minutes also writes, and here all first requests would come at once.
"""


def run(options: Options) -> bool:
    """Measure, print the result, and write it to `json_path` if set; return whether every judged limit is kept.

    Raises BenchmarkError, DevstackError or OSError.
    """
    wrk.require()
    circumstances = Circumstances.of("profile_read", options.seed)
    print(circumstances.line(), flush=True)
    found = _compare(options)
    promises = found.promises(circumstances, minimum_ratio_percent=MINIMUM_RATIO_PERCENT)
    return comparison.conclude([found], promises, options, circumstances)


def _compare(options: Options) -> Comparison[Measurement]:
    issuer = SessionIssuer.generate()
    with deployed({}, {**NOBODY_REFUSED, **issuer.environment}) as deployment:
        print(f"seeding {options.users} users …", flush=True)
        deployment.run_python("-m", "benchmarks.seeding", "profiles", str(options.users))
        deployment.query(_ALL_ACTIVE)
        deployment.query("ANALYZE")  # else autovacuum does it in mid-run, and plans change
        script = _write_script(deployment.folder / "profile_read.lua", issuer, options)
        floor = comparison.floor_server(deployment, "benchmarks.profile_read_floor")
        servers = comparison.web_server(deployment), floor
        return comparison.compare("profile_read", servers, script, options, measure_with=comparison.measure)


def _write_script(path: Path, issuer: SessionIssuer, options: Options) -> Path:
    authorizations = issuer.authorizations(user.id for user in seeded_users(options.users))
    wrk.write_script(path, wrk.Gets(PATH, authorizations), seed=options.seed)
    return path
