"""What docs/migrations.md says about a branch beside one's own is followed to the letter, with each template."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError

from oban_sa.migrations import branch
from oban_sa.migrations.branch import FOLDER
from tests.migrations.project import tables
from tests.support import sync_url

TEMPLATES = ["generic", "async", "multidb", "pyproject", "pyproject_async"]
INI = "path_separator = newline\nversion_locations =\n    %(here)s/alembic/versions\n    oban_sa:migrations/versions\n"
TOML = 'version_locations = ["%(here)s/alembic/versions", "oban_sa:migrations/versions"]\n'


class Made:
    """A project as `alembic init` leaves it, and as our page says to change it."""

    def __init__(self, folder: Path, url: str, template: str, *, hook: bool = True, engine: str | None = None) -> None:
        self.folder = folder
        self.toml = folder / "pyproject.toml" if template.startswith("pyproject") else None
        self.ini = folder / "alembic.ini"
        command.init(self.config(), str(folder / "alembic"), template=template)
        written = self.ini.read_text()
        driver = "asyncpg" if template.endswith("async") else "psycopg"
        address = f"sqlalchemy.url = {sync_url(url, driver)}"
        other = f"sqlalchemy.url = sqlite:///{folder / 'other.db'}"
        addresses = [address, other] if template == "multidb" else [address]
        for each in addresses:
            written = re.sub(
                r"^sqlalchemy.url = driver.*$", lambda _, each=each: each, written, count=1, flags=re.MULTILINE
            )
        if self.toml is None:
            written = re.sub(r"^path_separator = .*$", lambda _: INI, written, flags=re.MULTILINE)
            own = "revision_environment = true\n" if hook else ""
            own += f"oban_engine = {engine}\n" if engine is not None else ""
            written = written.replace(INI, INI + own)
        else:
            settings = self.toml.read_text()
            own = "revision_environment = true\n" if hook else ""
            self.toml.write_text(settings.replace("[tool.alembic]\n", "[tool.alembic]\n" + TOML + own, 1))
        self.ini.write_text(written)
        env = folder / "alembic" / "env.py"
        text = (
            env.read_text().replace("    fileConfig(", "    str(").replace("\nfileConfig(", "\nstr(")
        )  # pytest's logging is not the project's
        text = text.replace("target_metadata = None", "import sqlalchemy\ntarget_metadata = sqlalchemy.MetaData()")
        text = text.replace(
            "\ntarget_metadata = {}",
            "\nimport sqlalchemy\ntarget_metadata = dict.fromkeys(['engine1', 'engine2'], sqlalchemy.MetaData())",
        )
        env.write_text(text)
        if hook:
            text = env.read_text().replace("context.configure(", "context.configure(\n**OURS,")
            text = text.replace(
                "\nconfig = context.config\n",
                "\nfrom oban_sa.migrations import include_name, own_revisions\n"
                "OURS = dict(include_name=include_name, process_revision_directives=own_revisions)\n"
                "config = context.config\n",
            )
            env.write_text(text)

    def config(self) -> Config:
        return Config(self.ini, toml_file=self.toml, stdout=io.StringIO(), output_buffer=io.StringIO(), attributes={})

    def revise(self, message: str, **options: object) -> Path:
        made = command.revision(self.config(), message, **options)  # type: ignore[arg-type]
        assert made is not None
        assert not isinstance(made, list)
        return Path(made.path)

    def heads(self) -> set[str]:
        return set(ScriptDirectory.from_config(self.config()).get_heads())


@pytest.mark.parametrize("template", TEMPLATES)
def test_revisions_follow_the_project_s_own_and_lie_in_its_folder(
    tmp_path: Path, empty_database_url: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(FOLDER.glob("*.py"))
    project = Made(tmp_path, empty_database_url, template, engine="engine1" if template == "multidb" else None)
    first = project.revise("First")
    second = project.revise("Second")
    command.upgrade(project.config(), "heads")
    third = project.revise("Third", autogenerate=True)

    assert {each.parent for each in (first, second, third)} == {tmp_path / "alembic" / "versions"}
    assert sorted(FOLDER.glob("*.py")) == before
    assert len(project.heads()) == 2
    assert re.search(r"^down_revision.* = None$", first.read_text(), re.MULTILINE)
    assert "public.oban_jobs" in tables(empty_database_url)
    assert "drop_table" not in third.read_text()
    command.upgrade(project.config(), "heads")
    command.downgrade(project.config(), "base")
    assert "public.oban_jobs" not in tables(empty_database_url)


def test_with_several_databases_the_one_for_the_jobs_has_to_be_named(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project = Made(tmp_path, empty_database_url, "multidb")
    with pytest.raises(CommandError, match="oban_engine = engine1"):
        command.upgrade(project.config(), "heads")
    assert tables(empty_database_url) == set()


def test_what_the_command_line_names_is_left_as_it_is(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    project = Made(tmp_path, empty_database_url, "generic")
    project.revise("First")
    apart = project.revise("Apart", head="base", version_path=str(tmp_path / "alembic" / "versions"))
    assert "Revises: \n" in apart.read_text()
    with pytest.raises(CommandError, match="Multiple heads"):  # two of the project's own
        project.revise("Which")


def test_a_revision_that_lies_among_our_versions_is_refused_with_where_to_put_it(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "versions"
    elsewhere.mkdir()
    (elsewhere / "v01_everything.py").write_text("")
    monkeypatch.setattr(branch, "FOLDER", elsewhere)
    project = Made(tmp_path, empty_database_url, "generic", hook=False)
    project.heads()
    (elsewhere / "1f00_first.py").write_text("")
    with pytest.raises(CommandError, match=r"1f00_first.py in .* move it to your own versions"):
        project.heads()


def test_without_the_hook_no_revision_is_written_into_the_installed_package(
    tmp_path: Path, empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(FOLDER.glob("*.py"))
    project = Made(tmp_path, empty_database_url, "generic", hook=False)
    with pytest.raises(CommandError, match=r"own_revisions .* revision_environment = true .* --version-path"):
        project.revise("First")
    assert sorted(FOLDER.glob("*.py")) == before

    own = tmp_path / "alembic" / "versions"
    assert project.revise("First", head="base", version_path=str(own)).parent == own
    assert sorted(FOLDER.glob("*.py")) == before
