"""mypy and pyright agree with `accepted.py` and with `rejected.py`, where every error is expected.

An ignored error that a checker would not report is an error itself, so neither file can stop being read unnoticed.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent
FILES = [str(FOLDER / "accepted.py"), str(FOLDER / "rejected.py")]

# A checker's own configuration, and not the project's, so that the outcome is what users see.
MYPY = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "--warn-unused-ignores"]
PYRIGHT = [sys.executable, "-m", "pyright", "--project", str(FOLDER), "--pythonpath", sys.executable]


def checked(command: list[str]) -> str:
    """Return what a checker complains about."""
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return "" if ran.returncode == 0 else ran.stdout + ran.stderr


def test_mypy_accepts_and_rejects_what_is_promised() -> None:
    assert checked([*MYPY, *FILES]) == ""


def test_pyright_accepts_and_rejects_what_is_promised() -> None:
    assert checked(PYRIGHT) == ""
