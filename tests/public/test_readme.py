"""The README's blocks run, in order, as a newcomer would run them; its tables are those of the code."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.config import Config

from oban_sa.settings.option import rows
from oban_sa.settings.options import Options
from tests.migrations.project import tables
from tests.public import pages, readme
from tests.support import ROOT, Process, environment, process, sync_url

API = """
import asyncio
import httpx
from api import app

async def main():
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")
    async with app.router.lifespan_context(app), client:
        answer = await client.post("/users", params={"email": "fast@example.com"})
        assert answer.status_code == 201, answer.text
        assert answer.json()["job"]

asyncio.run(main())
"""

WEB = """
from web import app

answer = app.test_client().post("/users", data={"email": "flask@example.com"})
assert answer.status_code == 201, answer.text
assert answer.json["job"]
"""

DOCS = sorted(f"docs/{each.name}" for each in (ROOT / "docs").glob("*.md"))


class Newcomer:
    """Somebody with an empty folder, two terminals and the README."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url: str | None = None

    def env(self) -> dict[str, str]:
        scripts = str(Path(sys.executable).parent)
        made = environment({"PATH": os.pathsep.join([scripts, os.environ["PATH"]])})
        return made | ({"OBAN_DATABASE_URL": self.url} if self.url else {})

    def types(self, script: str) -> str:
        """Run shell commands, and return what they print; all must succeed."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.folder,
            env=self.env(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
        return done.stdout


def is_service(block: pages.Block) -> bool:
    """A runner that stays, which wants a terminal of its own."""
    return block.text.startswith("python -m oban_sa.runner --embedded")


@pytest.fixture
def newcomer(tmp_path: Path) -> Newcomer:
    return Newcomer(tmp_path)


@pytest.fixture
def runner(newcomer: Newcomer) -> Iterator[Process]:
    """The first terminal: the runner of the five minutes, with the private database."""
    (block,) = [block for block in readme.blocks() if block.runs and is_service(block)]
    (shop,) = [block for block in readme.blocks() if block.file == "shop.py"]
    (newcomer.folder / "shop.py").write_text(shop.text)
    words = block.text.split()
    assert words[0] == "python"
    with process([sys.executable, *words[1:]], cwd=newcomer.folder) as running:
        yield running


async def test_the_blocks_run_in_order(newcomer: Newcomer, runner: Process) -> None:
    newcomer.url = (await runner.says("postgresql://", within=60)).strip()
    await runner.says("listening for new jobs", within=60)
    pieces: list[str] = []
    for block in readme.blocks():
        if not block.runs or is_service(block):
            continue
        if block.file is not None:
            (newcomer.folder / block.file).write_text(block.text)
        elif block.language == "python":
            pieces.append(block.text)
        elif block.language == "sh":
            said = newcomer.types(block.text)
            if "signup.py" in block.text:
                assert said == 'Job(id=1, worker=send_welcome, args={"user_id":1}, queue=mailers, state=available)\n'
                assert said in readme.README.read_text()
                await runner.says("Welcome, ada@example.com!", within=30)
                await runner.says("job 1 send_welcome completed", within=30)
            if "--dry-run" in block.text:
                assert re.search(r"grace +30 +oban.toml: grace", said), said

    assert len(pieces) >= 7
    (newcomer.folder / "pieces.json").write_text(json.dumps(pieces))
    newcomer.types("python -m tests.public.snippets pieces.json")
    newcomer.types(f"python - <<'PYTHON'\n{API}\nPYTHON")
    newcomer.types(f"python - <<'PYTHON'\n{WEB}\nPYTHON")
    await runner.says("Welcome, flask@example.com!", within=30)
    runner.interrupt()
    assert await runner.ended() == 0, runner.output


def migrating_block(beginning: str) -> str:
    (text,) = [block.text for block in readme.blocks() if block.text.startswith(beginning)]
    return text


@pytest.fixture
def project(newcomer: Newcomer, empty_database_url: str) -> Newcomer:
    """A project as `alembic init` makes it, with the lines of the README in its env.py."""
    newcomer.types("alembic init migrations")
    change(newcomer.folder / "alembic.ini", r"sqlalchemy.url = .*", f"sqlalchemy.url = {sync_url(empty_database_url)}")
    env = newcomer.folder / "migrations" / "env.py"
    imported = migrating_block("from oban_sa.migrations import include_name").splitlines()[0]
    change(env, r"target_metadata = None", "from sqlalchemy import MetaData\ntarget_metadata = MetaData()")
    change(env, r"from alembic import context", f"from alembic import context\n{imported}")
    change(env, r"context.configure\(", "context.configure(include_name=include_name, ")
    return newcomer


def change(path: Path, pattern: str, replacement: str) -> None:
    text, count = re.subn(pattern, lambda _: replacement, path.read_text())
    assert count, f"{path.name} has no {pattern}"
    path.write_text(text)


def test_the_line_in_a_migration_of_one_s_own_works(project: Newcomer, empty_database_url: str) -> None:
    body = migrating_block("from alembic import op")
    header = 'revision = "0001"\ndown_revision = None\n\n'
    (project.folder / "migrations" / "versions" / "0001_jobs.py").write_text(header + body)
    project.types("alembic upgrade head && alembic check")
    assert "public.oban_jobs" in tables(empty_database_url)
    project.types("alembic downgrade base && alembic upgrade head --sql")


def test_the_branch_beside_one_s_own_works(project: Newcomer, empty_database_url: str) -> None:
    block = migrating_block("[alembic]\n")
    ini = project.folder / "alembic.ini"
    text = re.sub(r"(?m)^(path_separator|version_path_separator|version_locations) *=.*\n", "", ini.read_text())
    ini.write_text(text.replace("[alembic]\n", block, 1))
    locations = Config(ini).get_version_locations_list()
    assert locations is not None
    assert len(locations) == 2, locations
    project.types(migrating_block("alembic upgrade heads"))
    assert "public.oban_jobs" in tables(empty_database_url)
    hook = migrating_block("from oban_sa.migrations import own_revisions").splitlines()[0]
    env = project.folder / "migrations" / "env.py"
    change(env, r"from alembic import context", f"from alembic import context\n{hook}")
    change(env, r"context.configure\(", "context.configure(process_revision_directives=own_revisions, ")
    project.types("alembic revision -m First && alembic revision -m Second && alembic upgrade heads")
    project.types("alembic check && alembic revision --autogenerate -m Third && alembic downgrade base")
    own = (project.folder / "migrations" / "versions").glob("*.py")
    assert sorted(each.stem.partition("_")[2] for each in own) == ["first", "second", "third"]


@pytest.mark.parametrize("table", [readme.commands, readme.settings])
def test_the_tables_are_those_of_the_code(table: object) -> None:
    name = table.__name__  # type: ignore[attr-defined]
    expected = table()  # type: ignore[operator]
    assert readme.between(name) == expected, "write them anew: python -m tests.public.readme"


def test_every_setting_has_a_row() -> None:
    listed = readme.between("settings").splitlines()
    flags = [option for option in rows(Options) if option.stands_in("flag")]
    assert len(flags) > 30
    for option in flags:
        (row,) = [row for row in listed if re.match(rf"\| `--{option.key.replace('_', '-')}[ `]", row)]
        assert (f"[`OBAN_{option.key.upper()}`]" in row) is option.stands_in("variable"), row


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them of its headings."""
    found = re.findall(r"(?m)^#+ (.*)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", *DOCS])
def test_links_lead_somewhere(page: str) -> None:
    here = ROOT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", here.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = here.parent / path if path else here
        assert there.exists(), f"{page} links to {path}"
        assert not anchor or anchor in headings(there), f"{page} links to {target}"


def test_every_page_is_found_from_the_index() -> None:
    text = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert [page for page in DOCS if f"({Path(page).name})" not in text and page != "docs/README.md"] == []
    assert "(docs/README.md)" in readme.README.read_text(encoding="utf-8")
