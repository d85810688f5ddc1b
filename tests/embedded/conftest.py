from __future__ import annotations

import secrets
from pathlib import Path

import pytest

from tests.ownserver import copy_made


@pytest.fixture
def folder(run_folder: Path) -> Path:
    """Where a server may live: not there yet, and with a space in it."""
    return run_folder / f"my app {secrets.token_hex(4)}"


@pytest.fixture
def made_before(run_folder: Path, folder: Path) -> None:
    """The folder's server was made before, and has stopped: to make its data takes longer than to start it."""
    copy_made(run_folder, folder)
