"""What happened to some jobs of a run, and around them, in the order of its moments."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from tests.acceptance.chaos.evidence import Evidence

_ABOUT_JOBS = ("begin", "end", "cancelling", "cancelled", "poison", "answered", "step begins", "step is over")
_ROOTS = ("cutting", "cut", "retrying flow")
_KEYS = ("about", "committed", "unknown", "failed", "undone")


def story(found: Evidence, jobs: Collection[int]) -> Iterator[str]:
    """Tell it line by line: seconds since the beginning, and what the database, a process or a fault did."""
    roots = found.roots()
    keys = {roots.get(job) or found.rows[job]["args"].get("key") for job in jobs if job in found.rows}
    told: list[tuple[float, str]] = []
    for job in jobs:
        for change in found.changes.get(job, ()):
            holder = (change["holder"] or "")[:8]
            who = f"{found.nodes.get(change['holder'], '?')} {holder}" if holder else ""
            what = f"{change['before'] or '-'} -> {change['after'] or '-'}"
            attempts = f"attempt {change['attempt_before']} -> {change['attempt']}"
            told.append((change["at"], f"  job {job} {what}, {attempts} {who} backend {change['backend']}"))
    for line in found.lines:
        what = line["what"]
        if what in _ABOUT_JOBS:
            wanted = line["job"] in jobs
        elif what in _KEYS:
            wanted = not keys.isdisjoint(line["keys"])
        elif what in _ROOTS:
            wanted = line["root"] in keys
        elif what == "retrying":
            wanted = not set(jobs).isdisjoint(line["jobs"])
        else:
            wanted = True
        if wanted:
            told.append((line["at"], _said(line)))
    for moment, text in sorted(told):
        yield f"{moment - found.began:8.3f} {text}"


def _said(line: dict[str, Any]) -> str:
    rest = {name: value for name, value in line.items() if name not in ("what", "at", "pid", "key", "worker")}
    if "holder" in rest:
        rest["holder"] = rest["holder"][:8]
    indent = "    " if line["what"] in _ABOUT_JOBS else ""
    return indent + " ".join([line["what"], *(f"{name}={value}" for name, value in rest.items())])
