from __future__ import annotations

import secrets
from pathlib import Path

import pytest


@pytest.fixture
def folder(run_folder: Path) -> Path:
    """Where a server may live: not there yet, and with a space in it."""
    return run_folder / f"my app {secrets.token_hex(4)}"
