"""Ctrl-C while a command is still importing ends it without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

SLOW = """
import time
print("importing", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("slow", "command"),
    [
        ("click.py", ["oban_sa", "status"]),
        ("asyncpg.py", ["oban_sa.runner"]),
        ("slow_jobs.py", ["oban_sa.runner", "--import", "slow_jobs", "--dry-run"]),
        ("slow_jobs.py", ["oban_sa", "runner", "--import", "slow_jobs", "--dry-run"]),
    ],
)
def test_an_early_interrupt_ends_a_command_without_a_traceback(tmp_path: Path, slow: str, command: list[str]) -> None:
    (tmp_path / slow).write_text(SLOW)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    words = [sys.executable, "-m", *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=tmp_path, env=env, **pipes) as running:
        assert running.stdout is not None
        assert "importing\n" in iter(running.stdout.readline, "")
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert said == ""
