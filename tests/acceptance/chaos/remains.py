"""Rules about what is left: rows, and logs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.acceptance.chaos.evidence import FINAL, Evidence
from tests.acceptance.chaos.violation import Violation


def sane(found: Evidence) -> Iterator[Violation]:
    """Rows agree with themselves, and nobody is left who is not there."""
    for row in found.rows.values():
        if row["state"] in FINAL and not row[f"{row['state']}_at"]:
            yield Violation("rows", f"a job is {row['state']} at no moment", row["id"])
        if row["state"] == "completed" and (row["cancelled_at"] or row["discarded_at"]):
            yield Violation("rows", "a completed job was cancelled or discarded too", row["id"])
        if row["worker"].endswith(".Recording") and row["state"] == "completed" and "return" not in row["meta"]:
            yield Violation("rows", "a completed job lost what it recorded", row["id"])
    for line in found.said("unburied"):
        yield Violation("rows", f"the row of dead node {line['node']} is left in queue {line['queue']}")
    for row in found.producers:
        if not any(line["holder"] == row["holder"] for line in found.said("unburied")):
            yield Violation("rows", f"node {row['node']} left its row in queue {row['queue']} when it stopped")


def logs(found: Evidence) -> Iterator[Violation]:
    """No runner tells of an error of its own: a job may fail and a database go away, and neither is one."""
    for node, text in found.logs.items():
        lines = text.splitlines()
        for number, line in enumerate(lines):
            try:
                said: dict[str, Any] = json.loads(line)
            except ValueError:
                # A child process whose runner is killed just as it starts says so, in Python's own way.
                orphaned = any("multiprocessing/spawn.py" in each for each in lines[number + 1 : number + 4])
                if line.startswith("Traceback") and not orphaned:
                    yield Violation("logs", "a runner ended with a traceback", details=node)
                continue
            if said.get("level") in ("error", "critical") and said.get("event") != "oban.job.exception":
                yield Violation("logs", "a runner told of an error of its own", details=f"{node}: {line[:500]}")
