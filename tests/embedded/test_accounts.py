"""As root: the server runs under another account, and nothing that isn't ours is changed."""

from __future__ import annotations

import logging
import os
import pwd
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from oban_sa import embedded
from oban_sa.embedded import EmbeddedError, binaries, home
from oban_sa.embedded.account import choose_account
from tests.support import run_python

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root lends the server another account")
ordinary = pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
NOBODY = pwd.getpwnam("nobody").pw_uid


@pytest.fixture
def shared(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Instead of /var/lib."""
    place = run_folder / f"shared-{secrets.token_hex(4)}"
    monkeypatch.setattr(home, "SHARED", place)
    yield place
    shutil.rmtree(place, ignore_errors=True)


def modes(path: Path) -> list[tuple[str, int, int]]:
    return [(str(each), each.stat().st_mode, each.stat().st_uid) for each in (path, *path.parents)]


@root
def test_roots_server_does_not_run_as_root(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        account = Path(f"/proc/{server.pid}").stat()
        assert account.st_uid != 0
        assert account.st_gid != 0
        assert server.data.stat().st_uid == account.st_uid


@root
def test_folders_that_were_there_keep_their_modes_and_owners(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    before = modes(folder)
    with embedded.start(folder, fast=True):
        assert modes(folder) == before
    assert modes(folder) == before


@root
def test_the_owner_of_the_folder_is_the_one_the_server_runs_as(folder: Path) -> None:
    folder.mkdir()
    os.chown(folder, NOBODY, -1)
    with embedded.start(folder, fast=True) as server:
        assert Path(f"/proc/{server.pid}").stat().st_uid == NOBODY


@root
def test_the_one_who_called_sudo_is_the_one_the_server_runs_as(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_UID", str(NOBODY))
    assert choose_account(folder / "postgresql", folder).uid == NOBODY


@root
def test_a_server_whose_account_cannot_get_to_its_folder_lives_elsewhere_and_says_so(
    folder: Path, shared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder.mkdir(mode=0o700)
    before = modes(folder)
    with caplog.at_level(logging.WARNING, "oban_sa.embedded"), embedded.start(folder, fast=True) as server:
        assert server.data.is_relative_to(shared)
        assert f"can't enter {folder}, so its server lives in {server.data.parent}" in caplog.text
        with psycopg.connect(server.url) as connection:
            connection.execute("CREATE TABLE kept ()")
    assert modes(folder) == before
    folder.chmod(0o755)  # what is elsewhere stays there
    with embedded.start(folder, fast=True) as again, psycopg.connect(again.url) as connection:
        assert again.data == server.data
        connection.execute("SELECT FROM kept")


@root
def test_a_pointer_to_elsewhere_that_root_did_not_write_is_not_followed(folder: Path, shared: Path) -> None:
    folder.mkdir(mode=0o700)
    pointer = folder / "postgresql.elsewhere"
    pointer.write_text(str(shared / "data-of-somebody"))
    os.chown(pointer, NOBODY, -1)
    with pytest.raises(EmbeddedError, match=r"postgresql\.elsewhere was not written by root"):
        embedded.start(folder, fast=True).open()


@root
def test_binaries_that_the_account_cannot_read_are_copied_once(
    folder: Path, shared: Path, run_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = run_folder / "hidden"
    hidden.mkdir(mode=0o700)
    wheel = next(binaries.candidates())
    base, trees = binaries.found(wheel).trees
    for tree in trees:
        shutil.copytree(tree, hidden / tree.relative_to(base), symlinks=True)
    chosen = binaries.found(hidden / wheel.relative_to(base))
    with embedded.start(folder, fast=True, binaries=chosen) as server:
        program = Path(os.readlink(f"/proc/{server.pid}/exe"))
        assert program.is_relative_to(shared)
        assert program.stat().st_uid == 0
    assert "so it gets a copy" in caplog.text
    caplog.clear()
    with embedded.start(folder, fast=True, binaries=chosen):
        assert "copy" not in caplog.text
    assert hidden.stat().st_mode & 0o777 == 0o700


@root
def test_what_root_finds_in_its_home_and_did_not_make_is_left_alone(folder: Path) -> None:
    foreign = folder / "postgresql"
    foreign.mkdir(parents=True)
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(EmbeddedError, match="belongs to root and has other files in it"):
        embedded.start(folder, fast=True).open()
    assert foreign.stat().st_uid == 0


@root
def test_the_owner_of_a_folder_cannot_make_root_give_away_a_file(folder: Path, run_folder: Path) -> None:
    precious = run_folder / f"precious-{secrets.token_hex(4)}"
    precious.write_text("root's")
    nest = folder / "postgresql"
    nest.mkdir(parents=True)
    for path in (folder, nest):
        os.chown(path, NOBODY, -1)
    (nest / "users.lock").symlink_to(precious)
    with pytest.raises(EmbeddedError, match=r"users\.lock can't be opened"):
        embedded.start(folder, fast=True).open()
    assert precious.stat().st_uid == 0


@root
def test_a_server_of_somebody_else_is_refused_by_name(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        owner = pwd.getpwuid(server.data.stat().st_uid).pw_name
    stranger = next(entry for entry in pwd.getpwall() if entry.pw_name not in ("root", owner, "sync"))
    shutil.chown(folder, stranger.pw_uid)
    code = (
        "import os, sys\nfrom oban_sa import embedded\nos.setuid(int(sys.argv[2]))\n"
        "try: embedded.start(sys.argv[1], fast=True).open()\nexcept embedded.EmbeddedError as error: print(error)"
    )
    said = run_python("-c", code, str(folder), str(stranger.pw_uid))
    assert f"belongs to account {owner!r}" in said.stdout, said.stderr


@ordinary
def test_an_ordinary_users_server_runs_as_that_user(folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        assert server.data.stat().st_uid == os.geteuid()
        assert Path(f"/proc/{server.pid}").stat().st_uid == os.geteuid()


@ordinary
def test_a_folder_that_cannot_be_written_to_is_named(folder: Path) -> None:
    folder.mkdir(mode=0o500)
    with pytest.raises(EmbeddedError, match=r"no server can live in .*Permission denied.*choose another folder"):
        embedded.start(folder, fast=True).open()
