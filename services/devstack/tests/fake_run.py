"""`python -m services.devstack.tests.fake_run PROCFILE`: `./run` with the processes of another Procfile, and without
the service's CLI (no migration, no service key)."""

import sys
from pathlib import Path

from services.devstack.__main__ import run
from services.devstack.preparation import Recipe

if __name__ == "__main__":
    sys.exit(run(Recipe(procfile=Path(sys.argv[1]), cli=(), postgres_settings={"fsync": "off"})))
