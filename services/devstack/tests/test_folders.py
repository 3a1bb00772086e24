"""The account under which Postgres runs (another one if root runs the tests, otherwise the person's own), and the
folders that are made for it."""

import os
import stat
from pathlib import Path

import pytest

from services.devstack import account, folders
from services.devstack.errors import DevstackError

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs Postgres as another account")
as_person = pytest.mark.skipif(os.geteuid() == 0, reason="root can enter every folder")


@as_root
def test_account_for_root_is_nobody(scratch: Path) -> None:
    chosen = account.account_for(scratch / "postgres")

    assert chosen is not None
    assert chosen.uid != 0


@as_root
def test_account_for_root_is_the_owner_of_existing_data(scratch: Path) -> None:
    os.chown(scratch, 12345, 12345)

    chosen = account.account_for(scratch)

    assert chosen is not None
    assert (chosen.uid, chosen.gid) == (12345, 12345)


@as_person
def test_account_for_a_person_is_their_own(scratch: Path) -> None:
    assert account.account_for(scratch) is None


@as_root
def test_data_folder_behind_a_closed_one_is_refused_by_its_name(scratch: Path) -> None:
    closed = scratch / "closed"
    closed.mkdir(mode=0o700)
    chosen = account.account_for(closed / "data")

    with pytest.raises(DevstackError, match=f"cannot enter {closed}: set DATA_DIR"):
        folders.make_data_folder(closed / "data", chosen)

    assert list(closed.iterdir()) == []
    assert stat.S_IMODE(closed.stat().st_mode) == 0o700


def test_data_folder_belongs_to_the_account_alone(scratch: Path) -> None:
    chosen = account.account_for(scratch / "data")

    folders.make_data_folder(scratch / "data", chosen)

    status = (scratch / "data").stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert status.st_uid == (chosen.uid if chosen else os.geteuid())


@as_root
def test_default_data_dir_in_a_closed_repository_is_elsewhere(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = scratch / "closed"
    repository.mkdir(mode=0o700)
    monkeypatch.setattr(folders, "SHARED_FOLDER", scratch)

    found = folders.default_data_dir(repository)

    assert found.parent == scratch
    assert folders.default_data_dir(repository) == found


@as_root
def test_default_data_dir_that_somebody_else_made_is_refused(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = scratch / "closed"
    repository.mkdir(mode=0o700)
    monkeypatch.setattr(folders, "SHARED_FOLDER", scratch)
    os.chown(folders.default_data_dir(repository), 12345, 12345)

    with pytest.raises(DevstackError, match="belongs to somebody else"):
        folders.default_data_dir(repository)


def test_default_data_dir_of_an_open_repository_is_in_it(scratch: Path) -> None:
    assert folders.default_data_dir(scratch) == scratch / ".data"


@as_root
def test_install_out_of_reach_is_copied_once(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "SHARED_FOLDER", scratch)
    site = scratch / "closed"
    install = site / "package" / "install"
    for folder in (install / "bin", install / "lib", install / "share", site / "package.libs"):
        folder.mkdir(parents=True)
        (folder / "postgres").write_text("")
    (install / "bin" / "postgres").chmod(0o700)
    site.chmod(0o700)
    chosen = account.account_for(scratch / "data")

    copy = folders.reachable_install(install, chosen, version="1")
    again = folders.reachable_install(install, chosen, version="1")

    assert copy == again != install
    assert account.can_enter(copy / "bin" / "postgres", chosen)
    assert account.can_enter(copy.parents[1] / "package.libs", chosen)
    assert {path.stat().st_uid for path in copy.parents[1].rglob("*")} == {0}


def test_socket_folder_is_short_and_private() -> None:
    folder = folders.make_socket_folder(None)

    mode = stat.S_IMODE(folder.stat().st_mode)
    folder.rmdir()
    assert mode == 0o700
    assert len(str(folder / ".s.PGSQL.5432")) < 40
