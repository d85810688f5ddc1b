"""A runner that is told to stop before it has begun, also as the first process of a container."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oban_sa.service.early_signals import is_runner
from tests.support import ROOT, Process, plain_url, process

SPACE = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]


def spaces() -> str | None:
    """Why no process can be made the first one here; None where it can."""
    if shutil.which("unshare") is None:
        return "there is no unshare"
    tried = subprocess.run([*SPACE, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"unshare is not allowed: {tried.stderr.strip()}"


@pytest.fixture(params=["first", "any"])
def first(request: pytest.FixtureRequest) -> bool:
    if request.param == "first" and (reason := spaces()):
        pytest.skip(reason)
    return bool(request.param == "first")


@contextmanager
def runner(first: bool, folder: Path, *arguments: str) -> Iterator[Process]:
    command = [sys.executable, "-m", "oban_sa.runner", *arguments]
    env = {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)])}
    with process([*SPACE, *command] if first else command, env=env) as running:
        yield running


def number_of(running: Process, *, first: bool) -> int:
    if not first:
        return running.pid
    children = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text().split()
    return int(children[0])


SLOW = """
import time
print("importing", flush=True)
time.sleep(60)
"""

STUBBORN = """
import time
print("importing", flush=True)
try:
    time.sleep(60)
except BaseException:
    pass
"""


@pytest.mark.parametrize("content", [SLOW, STUBBORN], ids=["slow", "stubborn"])
async def test_a_runner_that_still_imports_stops_when_it_is_told_to(first: bool, tmp_path: Path, content: str) -> None:
    (tmp_path / "imported.py").write_text(content)
    with runner(first, tmp_path, "--database-url", "postgresql://127.0.0.1:1/none", "--import", "imported") as one:
        await one.says("importing")
        os.kill(number_of(one, first=first), signal.SIGTERM)
        assert await one.ended(30) == 0, one.output


async def test_the_first_process_stops_while_the_package_itself_is_imported(tmp_path: Path) -> None:
    if reason := spaces():
        pytest.skip(reason)
    (tmp_path / "sqlalchemy.py").write_text(SLOW)
    with runner(True, tmp_path, "--help") as one:
        await one.says("importing")
        os.kill(number_of(one, first=True), signal.SIGTERM)
        assert await one.ended(30) == 0, one.output


@pytest.mark.parametrize("arguments", [(), ("--processes", "2")], ids=["one", "supervised"])
async def test_a_runner_that_works_stops_when_it_is_told_to_and_says_what_it_does_not_do(
    first: bool, database_url: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "imported.py").touch()
    options = ["--database-url", plain_url(database_url), "--import", "imported", *arguments]
    with runner(first, tmp_path, *options) as one:
        await one.says("running default:")
        os.kill(number_of(one, first=first), signal.SIGTERM)
        assert await one.ended(30) == 0, one.output
        assert one.output.count("(PID 1)") == first


async def test_runners_that_still_import_stop_with_their_supervisor(database_url: str, tmp_path: Path) -> None:
    (tmp_path / "imported.py").write_text("import sys\nif '--processes' not in sys.orig_argv:\n" + indented(SLOW))
    options = ["--database-url", plain_url(database_url), "--import", "imported", "--processes", "2"]
    with runner(False, tmp_path, *options) as one:
        await one.says("importing")
        one.terminate()
        assert await one.ended(30) == 0, one.output


def indented(code: str) -> str:
    return "\n".join(f"    {line}" for line in code.splitlines())


@pytest.mark.parametrize(
    ("command", "is_one"),
    [
        ("python -m oban_sa.runner --import app", True),
        ("python -X dev -W error -u -m oban_sa runner", True),
        ("python /venv/bin/oban-sa runner --queues a:1", True),
        ("python /venv/bin/oban-sa run", True),
        ("python -m oban_sa status", False),
        ("python /venv/bin/oban-sa", False),
        ("python /venv/bin/uvicorn app:app", False),
        ("python app.py -m oban_sa.runner", False),
        ("python", False),
    ],
)
def test_only_the_command_of_a_runner_handles_signals_before_anything_else(command: str, *, is_one: bool) -> None:
    assert is_runner(command.split()) == is_one
