"""The account that runs Postgres, and which folders it can enter.

Postgres refuses to run as root. Started by root, it therefore runs as an unprivileged account, which has to be able to
enter the folders of its binaries and of its data (see `folders`). Started by anybody else, it runs as that user.
"""

import os
import pwd
import sys
from pathlib import Path

from services.devstack import process
from services.devstack.errors import DevstackError
from services.devstack.process import Account

UNPRIVILEGED = "nobody"
_CAN_ENTER = """
import os, sys
uid, gid, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
os.setgroups([])
os.setgid(gid)
os.setuid(uid)
sys.exit(0 if os.access(path, os.X_OK) else 1)
"""


def account_for(data_dir: Path) -> Account | None:
    """Return the account to run Postgres as: None, for no change of account, unless this process runs as root; for
    root, the owner of `data_dir`, or `nobody` if that folder does not exist or root owns it.

    Raises `DevstackError` if there is no account `nobody`.
    """
    if os.geteuid() != 0:
        return None
    if data_dir.is_dir() and (status := data_dir.stat()).st_uid != 0:
        return Account(status.st_uid, status.st_gid)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise DevstackError(
            f"Postgres does not run as root and there is no account {UNPRIVILEGED!r}: start this as an ordinary user"
        ) from None
    return Account(entry.pw_uid, entry.pw_gid)


def can_enter(path: Path, account: Account | None) -> bool:
    """Tell whether `account` (None means the present one) can enter the folder, or run the file, `path`. For another
    account, a separate process that runs as that account checks."""
    if account is None:
        return os.access(path, os.X_OK)
    # The account may be unable to reach the interpreter, so the process changes to it after it has started.
    ids = (str(account.uid), str(account.gid))
    return process.run([sys.executable, "-I", "-S", "-c", _CAN_ENTER, *ids, path], env={}).returncode == 0


def first_closed(path: Path, account: Account | None) -> Path | None:
    """Return the topmost existing folder on the way to `path` that `account` cannot enter; None if it can enter all of
    them."""
    way = [folder for folder in (*reversed(path.parents), path) if folder.is_dir()]
    if can_enter(way[-1], account):
        return None
    return next(folder for folder in way if not can_enter(folder, account))
