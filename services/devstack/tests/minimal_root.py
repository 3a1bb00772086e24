"""A Debian with only Python, python3-venv and git, and in it an ordinary user who has cloned the repository."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.devstack import folders
from services.devstack.bootstrap import FOREIGN_VARIABLES, REPOSITORY

SUITE = "bookworm"  # Its Python is 3.11, the oldest one that we support.
PACKAGES = ("python3", "python3-venv", "git")
_USER = 1000
_HOME = Path("/home/stranger")
_INSTALLERS = ("PIP_", "UV_", "SSL_CERT_", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
# The mounts and all processes started in the namespaces end with these, however this process ends.
_NAMESPACES = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
_ENTER = """
root=$1 user=$2 directory=$3
shift 3
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
while [ "$1" != -- ]; do
    mkdir -p "$root$1"
    mount --bind "$1" "$root$1"
    shift
done
shift
exec chroot --userspec="$user:$user" --groups= "$root" sh -c 'cd "$0" && exec "$@"' "$directory" "$@"
"""


@dataclass(frozen=True, slots=True)
class MinimalRoot:
    """The file system of the minimal machine, in `folder`."""

    folder: Path

    @property
    def clone(self) -> Path:
        """The path of the cloned repository, as seen from inside the root."""
        return _HOME / "repository"

    def run(self, *command: str, log: Path, seconds: float) -> int:
        """Run a command in the clone as the ordinary user, write its output to `log`, and return its exit status.
        Raises TimeoutExpired after `seconds`."""
        variables = installer_variables(os.environ)
        mounted = (str(path) for path in _paths(variables) if path.is_dir())
        enter = ("sh", "-euc", _ENTER, "sh", str(self.folder), str(_USER), str(self.clone), *mounted, "--")
        with log.open("wb") as output:
            finished = subprocess.run(
                [*_NAMESPACES, *enter, *command],
                env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(_HOME), **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                check=False,
                timeout=seconds,
            )
        return finished.returncode


def installer_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of `environment` by which pip and uv reach package indexes: their own settings, proxies and
    certificates."""
    return {
        name: value
        for name, value in environment.items()
        if name not in FOREIGN_VARIABLES and (name.startswith(_INSTALLERS) or name.lower() in _PROXIES)
    }


@contextmanager
def minimal_root() -> Iterator[MinimalRoot]:
    """Make the minimal Debian and its clone of this repository, and remove them at the end of the block. Raises
    AssertionError without debootstrap or the rights of root, or when a step fails."""
    assert shutil.which("debootstrap"), "debootstrap is not installed: apt-get install debootstrap (Debian, Ubuntu)"
    assert os.geteuid() == 0, "debootstrap and chroot need root: sudo ./test nightly"
    with folders.scratch_folder() as scratch:
        root = MinimalRoot(scratch / "root")
        root.folder.mkdir()
        packages = f"--include={','.join(PACKAGES)}"
        _checked(*_NAMESPACES, "debootstrap", "--variant=minbase", packages, SUITE, str(root.folder))
        home = root.folder / _HOME.relative_to("/")
        _checked("git", "clone", "--quiet", "--no-hardlinks", str(REPOSITORY), str(home / root.clone.name))
        with (root.folder / "etc/passwd").open("a") as accounts:
            accounts.write(f"stranger:x:{_USER}:{_USER}::{_HOME}:/bin/sh\n")
        _copy_network_settings(root.folder, home)
        _checked("chown", "--recursive", f"{_USER}:{_USER}", str(home))
        yield root


def _copy_network_settings(root: Path, home: Path) -> None:
    files = [Path(name) for name in ("/etc/resolv.conf", "/etc/hosts", "/etc/pip.conf")]
    copies = {path: root / path.relative_to("/") for path in (*files, *_paths(installer_variables(os.environ)))}
    copies |= {
        Path.home() / name: home / name for name in (".config/pip/pip.conf", ".pip/pip.conf", ".config/uv/uv.toml")
    }
    for source, copy in copies.items():
        if source.is_file():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)


def _paths(variables: Mapping[str, str]) -> list[Path]:
    """Return the absolute paths among the values of the variables."""
    return [Path(value) for value in variables.values() if value.startswith("/")]


def _checked(*command: str) -> None:
    finished = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    assert finished.returncode == 0, f"{command[0]} failed: {(finished.stdout + finished.stderr)[-2000:]}"
