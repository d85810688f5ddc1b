"""What `make lint` says of files, folders and names: each rule fails on a tree that breaks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


def checked(root: Path) -> list[str]:
    command = [sys.executable, str(ROOT / "tools" / "check-house"), str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (1 if lines else 0, "")
    return lines


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A small tree that breaks no rule."""
    write(tmp_path, "oban_sa/runner/queue/__init__.py")
    write(tmp_path, "oban_sa/jobs/__init__.py")
    write(tmp_path, "oban_sa/jobs/states.py", "class State:\n    def hand(self) -> None: ...\n")
    write(tmp_path, "tests/jobs/test_states.py")
    write(tmp_path, "tests/runner/queue/test_queue.py")
    return tmp_path


def write(root: Path, name: str, text: str = "") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_house_without_faults_passes(house: Path) -> None:
    assert checked(house) == []


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("oban_sa/jobs/long.py", "x = 1\n" * 401, "oban_sa/jobs/long.py:401: size: 401 lines"),
        ("oban_sa/jobs/loading.py", "", "oban_sa/jobs/loading.py:1: participle: "),
        ("oban_sa/jobs/_loading.py", "", "oban_sa/jobs/_loading.py:1: participle: "),
        ("oban_sa/jobs/utils.py", "", "oban_sa/jobs/utils.py:1: vague name: "),
        ("oban_sa/jobs/job_helpers.py", "", "oban_sa/jobs/job_helpers.py:1: vague name: "),
        ("oban_sa/jobs/a.py", "\nclass JobManager: ...\n", "oban_sa/jobs/a.py:2: vague name: JobManager"),
        ("oban_sa/jobs/a.py", "class SignalHandler: ...\n", "oban_sa/jobs/a.py:1: vague name: SignalHandler"),
        ("oban_sa/jobs/a.py", "def _util(): ...\n", "oban_sa/jobs/a.py:1: vague name: _util"),
        ("oban_sa/jobs/a.py", "x: Any\n" * 3 + "Any, " * 2_000, "oban_sa/jobs/a.py:4: any: "),
        ("oban_sa/new/__init__.py", "", "oban_sa/new/__init__.py:1: no tests: make a folder tests/new/"),
        ("oban_sa/runner/new/__init__.py", "", "oban_sa/runner/new/__init__.py:1: no tests: make a folder runner/new/"),
    ],
)
def test_each_fault_is_told_with_its_place_and_its_rule(house: Path, name: str, text: str, found: str) -> None:
    write(house, name, text)
    (line,) = checked(house)
    assert line.startswith(found)


@pytest.mark.parametrize("folder", ["oban_sa", "oban_sa/runner"])
def test_few_modules_stand_beside_folders(house: Path, folder: str) -> None:
    for name in "abcdef":
        write(house, f"{folder}/{name}.py")
    assert checked(house) == []
    write(house, f"{folder}/g.py")
    (line,) = checked(house)
    assert line.startswith(f"{folder}/g.py:1: loose modules: 7 modules")


@pytest.mark.parametrize("name", ["oban_sa/jobs/listing.py", "oban_sa/models/base.py", "oban_sa/jobs/handlers.py"])
def test_nouns_and_names_of_others_are_let_pass(house: Path, name: str) -> None:
    write(house, "oban_sa/models/__init__.py")
    write(house, "tests/models/test_models.py")
    write(house, name)
    assert checked(house) == []
