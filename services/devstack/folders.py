"""Folders that the account that runs Postgres can reach: data, sockets, throw-away data, a copy of the binaries.

The mode of an existing folder is never changed: only folders made here get one.
"""

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from services.devstack.account import account_for, can_enter, first_closed
from services.devstack.errors import DevstackError
from services.devstack.process import Account

SHARED_FOLDER = Path("/var/tmp")  # noqa: S108 - only folders owned by root are used in it, checked before each use
SHORT_FOLDER = Path("/tmp")  # noqa: S108 - sockaddr_un holds 107 bytes; mkdtemp makes private folders in it
_PRIVATE = 0o700
_PASSAGE = 0o711  # others may open what they know the name of in it, but not list it
_SOCKET_PREFIX = "ums-"
_ABANDONED_AFTER = 600.0  # seconds; a live server's folder is empty for a moment only
_RUNTIME_PARTS = ("bin", "lib", "share")


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_folder(path: Path, *, private: bool = False) -> None:
    """Make `path` and its missing parents, unless it exists. If root makes them, other accounts may pass through the
    new folders but not list them; they cannot enter `path` itself if it is `private`."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=_PRIVATE)
        if os.geteuid() == 0 and not private:
            path.chmod(_PASSAGE)


def require_reachable(path: Path, account: Account | None) -> None:
    """Check that `account` can reach `path`. Raises `DevstackError` naming the first folder on the way that the
    account cannot enter."""
    if closed := first_closed(path, account):
        raise DevstackError(
            f"Postgres cannot run as root, and the account it runs as (uid {account.uid if account else os.geteuid()}) "
            f"cannot enter {closed}: set DATA_DIR to a folder it can reach, such as {SHARED_FOLDER / 'user-management'}"
        )


def make_data_folder(path: Path, account: Account | None) -> None:
    """Make `path` as a folder that only `account` (and root) can enter, unless it exists. Raises `DevstackError` when
    the account cannot reach it."""
    require_reachable(path, account)
    if path.is_dir():
        return
    make_folder(path, private=True)
    if account:
        os.chown(path, account.uid, account.gid)


def make_socket_folder(account: Account | None) -> Path:
    """Remove abandoned socket folders, and make a new, short, private one, /tmp/ums-XXXXXXXX, for `account` alone (and
    root)."""
    _remove_abandoned()
    folder = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX, dir=SHORT_FOLDER))
    if account:
        os.chown(folder, account.uid, account.gid)
    return folder


def _remove_abandoned() -> None:
    """Remove socket folders that are empty and older than ten minutes. A server whose owner was killed removes its
    socket but not the folder, and nobody uses an empty folder for so long."""
    for folder in SHORT_FOLDER.glob(f"{_SOCKET_PREFIX}*"):
        with contextlib.suppress(OSError):  # not empty, not ours, or removed meanwhile
            if time.time() - folder.stat().st_mtime > _ABANDONED_AFTER:
                folder.rmdir()


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a throw-away data folder that the account of Postgres can also reach (as root, pytest's tmp_path is closed
    to it), and delete it at the end of the block."""
    folder = Path(tempfile.mkdtemp(prefix="ums-data-", dir=SHORT_FOLDER))
    if os.geteuid() == 0:
        folder.chmod(_PASSAGE)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def default_data_dir(repository: Path) -> Path:
    """Return `.data` in the repository, or, if the account that runs Postgres cannot reach it, a folder in /var/tmp,
    which is made if it is missing.

    Raises `DevstackError` when the folder in /var/tmp belongs to somebody else or others can write to it.
    """
    preferred = repository / ".data"
    if first_closed(preferred, account_for(preferred / "postgres")) is None:
        return preferred
    fallback = SHARED_FOLDER / f"user-management-data-{_digest(str(repository))}"
    make_folder(fallback)
    _refuse_foreign(fallback)
    return fallback


def reachable_install(install: Path, account: Account | None, *, version: str) -> Path:
    """Return `install`, the tree of Postgres's programs at SITE/PACKAGE/NAME, or a copy of it in /var/tmp if `account`
    cannot run what is in it.

    The copy is made once per source path and version, and only its owner, root, can write to it. Raises `DevstackError`
    if the copy belongs to somebody else or others can write to it.
    """
    if can_enter(install / "bin" / "postgres", account):
        return install
    copy = SHARED_FOLDER / f"user-management-{_digest(f'{install} {version}')}"
    if not copy.exists():
        _copy_install(install, copy)
    _refuse_foreign(copy)
    return copy / install.parent.name / install.name


def _copy_install(install: Path, copy: Path) -> None:
    """Copy the parts of `install` that the server needs to the folder `copy`, at the same places relative to each
    other, and make them readable for all. A copy that another run has made meanwhile is left as it is."""
    site, package = install.parents[1], install.parent.name
    parts = [Path(package, install.name, part) for part in _RUNTIME_PARTS]
    parts.append(Path(f"{package}.libs"))  # auditwheel puts shared libraries beside the package, found by RPATH
    unfinished = Path(tempfile.mkdtemp(prefix=f"{copy.name}-", dir=copy.parent))
    try:
        for part in parts:
            if (site / part).is_dir():
                shutil.copytree(site / part, unfinished / part, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
        for path in (unfinished, *unfinished.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        with contextlib.suppress(OSError):  # not empty: another run was faster, and its copy is as good
            unfinished.rename(copy)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    """Raise `DevstackError` unless `folder` is a folder that this user owns and nobody else can write to: everybody
    can create one in SHARED_FOLDER."""
    status = folder.lstat()
    writable_by_others = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or writable_by_others:
        raise DevstackError(f"{folder} belongs to somebody else: remove it")
