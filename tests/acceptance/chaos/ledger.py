"""A ledger that no table holds: lines in files, one file for each process, written as things happen."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FOLDER = "CHAOS_LEDGER"
"""The variable that says in which folder the files are."""

_open: dict[int, int] = {}


def write(what: str, /, **said: Any) -> None:
    """Add a line, in one piece, whichever thread or task writes; `at` is the machine's monotonic clock in seconds."""
    pid = os.getpid()
    file = _open.get(pid)
    if file is None:
        path = os.path.join(os.environ[FOLDER], f"{pid}.jsonl")
        file = _open[pid] = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    line = {"what": what, "at": time.monotonic(), "pid": pid, **said}
    os.write(file, json.dumps(line).encode() + b"\n")


def read(folder: Path) -> Iterator[dict[str, Any]]:
    """Every line of every file, in the order of their moments; a line cut short by a kill is left out."""
    lines: list[dict[str, Any]] = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
    return iter(sorted(lines, key=lambda line: line["at"]))
