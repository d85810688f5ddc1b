"""The plugin is loaded by name here: an environment may have the package on its path without having it installed."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

from tests.support import ROOT, run_python

MADE = """
from oban_sa import Job

seen = []

def test_made(oban_made):
    one = Job("a")
    assert oban_made == [one]
    seen.append(oban_made)

def test_made_anew(oban_made):
    assert oban_made == []

def test_nobody_looks_any_more():
    Job("b")
    assert len(seen[0]) == 1
"""

INLINE = """
import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session
from oban_sa import enqueue, job

@job(max_attempts=1)
def work(fails: bool):
    assert not fails, "the job failed"

@pytest.mark.parametrize("fails", [False, True])
def test_inline(oban_inline, fails):
    with Session(create_engine({url!r})) as session, session.begin():
        enqueue(session, work.new(fails))
    assert oban_inline.counts == {{"discarded" if fails else "completed": 1}}
"""


def _pytest(folder: Path, code: str, *arguments: str) -> str:
    (folder / "test_app.py").write_text(code)
    words = ["-m", "pytest", "-p", "no:cacheprovider", *arguments, "."]
    return run_python(*words, cwd=folder, env={"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}).stdout


def test_jobs_that_a_test_makes_are_seen(tmp_path: Path) -> None:
    assert "3 passed" in _pytest(tmp_path, MADE, "-p", "pytest_oban_sa")


def test_jobs_run_inline_and_what_they_raise_fails_the_test(tmp_path: Path, database_url: str) -> None:
    url = database_url.replace("+asyncpg", "+psycopg")
    said = _pytest(tmp_path, INLINE.format(url=url), "-p", "pytest_oban_sa")
    # The error comes when the fixture ends, after the test's own asserts have passed.
    assert "2 passed, 1 error" in said, said
    assert "the job failed" in said


def test_the_plugin_imports_nothing_before_a_test_asks_for_it(tmp_path: Path) -> None:
    code = "import sys\ndef test_imports():\n    assert not {'oban_sa', 'sqlalchemy'} & set(sys.modules)\n"
    assert "1 passed" in _pytest(tmp_path, code, "-p", "pytest_oban_sa")


def test_the_package_registers_the_plugin_by_a_name_that_switches_it_off(tmp_path: Path) -> None:
    distribution = tmp_path / "oban_sa-0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: oban-sa\nVersion: 0\n")
    (distribution / "entry_points.txt").write_text(_entry_points())
    (tmp_path / "test_app.py").write_text("def test_nothing():\n    pass\n")

    def fixtures(*arguments: str) -> str:
        words = ["-m", "pytest", "-p", "no:cacheprovider", *arguments, "--fixtures", "test_app.py"]
        return run_python(*words, cwd=tmp_path, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}).stdout

    assert "oban_inline" in fixtures()
    assert "oban_inline" not in fixtures("-p", "no:oban_sa")


def _entry_points() -> str:
    groups = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]
    return "".join(
        f"[{group}]\n" + "".join(f"{name} = {target}\n" for name, target in entries.items())
        for group, entries in groups.items()
    )
