"""What users import, what importing costs, and what is in the wheel."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import oban_sa
from tests.support import ROOT, run_python

NAMES = [
    "Batch",
    "Cancel",
    "Chunk",
    "ChunkResult",
    "Conflict",
    "ForUpdate",
    "Job",
    "JobState",
    "Oban",
    "Queue",
    "Rate",
    "Record",
    "Result",
    "Runner",
    "Runners",
    "Signal",
    "Snooze",
    "Unique",
    "Worker",
    "Workflow",
    "chain",
    "current_job",
    "deps",
    "enqueue",
    "enqueue_many",
    "enqueue_select",
    "job",
    "progress",
    "ref",
    "schema_map",
    "signal",
    "sleep",
    "step",
    "wait_for",
    "worker",
]


def test_the_public_names_are_these() -> None:
    assert sorted(oban_sa.__all__) == NAMES
    for name in NAMES:
        assert getattr(oban_sa, name) is not None


def test_a_star_import_gives_these_and_no_more() -> None:
    given: dict[str, object] = {}
    exec("from oban_sa import *", given)
    assert sorted(given.keys() - {"__builtins__"}) == NAMES


def test_its_version_is_the_project_s() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert oban_sa.__version__ == project["version"]


def test_importing_it_leaves_extras_and_the_command_line_alone() -> None:
    done = run_python("-c", "import json, sys, oban_sa; print(json.dumps(sorted(sys.modules)))")
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout))
    assert "sqlalchemy" in loaded
    extras = {"starlette", "jinja2", "click", "rich", "uvloop", "psycopg", "pydantic", "msgspec", "pytest"}
    ours = {f"oban_sa.{name}" for name in ("embedded", "cli", "web", "testing", "runner", "migrations")}
    assert loaded & (extras | ours | {"alembic", "multiprocessing"}) == set()


def test_importing_it_logs_and_prints_nothing() -> None:
    done = run_python("-W", "error", "-X", "dev", "-c", "import oban_sa, logging; assert not logging.root.handlers")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names of the files in a wheel that is built here."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_has_types_and_every_module(wheel: set[str]) -> None:
    assert "oban_sa/py.typed" in wheel
    for path in (ROOT / "oban_sa").rglob("*.py"):
        assert str(path.relative_to(ROOT)) in wheel


def test_the_wheel_has_the_migrations(wheel: set[str]) -> None:
    versions = {path.name for path in (ROOT / "oban_sa" / "migrations" / "versions").glob("v*.py")}
    assert versions
    assert {f"oban_sa/migrations/versions/{name}" for name in versions} <= wheel


def test_the_wheel_has_what_the_dashboard_serves(wheel: set[str]) -> None:
    served = {path for folder in ("static", "templates") for path in (ROOT / "oban_sa" / "web" / folder).iterdir()}
    files = {str(path.relative_to(ROOT)) for path in served if path.is_file() and path.suffix != ".py"}
    assert {"oban_sa/web/static/LICENSE.htmx", "oban_sa/web/templates/base.html"} <= files
    assert files <= wheel


def test_the_wheel_has_the_package_the_pytest_plugin_and_nothing_else(wheel: set[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"oban_sa", "pytest_oban_sa.py"}
    assert any(name.endswith("licenses/LICENSE") for name in wheel)


def test_every_dependency_is_justified() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    text = (ROOT / "CONTRIBUTING.md").read_text()
    everything = [*project["dependencies"], *itertools.chain(*project["optional-dependencies"].values())]
    for requirement in everything:
        name = re.match(r"[\w.-]+", requirement)
        assert name is not None
        if name[0] != project["name"]:
            assert re.search(rf"\b{re.escape(name[0])}\b", text), (
                f"CONTRIBUTING.md does not say why {name[0]} is needed"
            )


def test_every_folder_of_tests_is_described() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for folder in sorted(path.parent for path in (ROOT / "tests").glob("*/__init__.py")):
        assert f"`{Path(folder).name}/`" in text


@pytest.mark.parametrize("contract", ["Downward only", "Inside the runner"])
def test_the_map_of_the_house_has_the_floors_of_the_contracts(contract: str) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text()
    maps = [[re.findall(r"\w+", line.partition("   ")[0]) for line in drawn.splitlines()] for drawn in _maps(page)]
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (layers,) = (each["layers"] for each in config["tool"]["importlinter"]["contracts"] if each["name"] == contract)
    assert [re.findall(r"\w+", layer) for layer in layers] in maps


def _maps(page: str) -> list[str]:
    return re.findall(r"```text\n(.*?)\n```", page, re.DOTALL)
