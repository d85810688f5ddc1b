"""What is known of a run once it is over, read from its folder and put in order."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.acceptance.chaos import ledger
from tests.acceptance.chaos.herd import DEAD_AFTER

FINAL: Final = ("completed", "cancelled", "discarded")

SLACK: Final = 0.05
"""Seconds by which two clocks, and two writers, may differ."""

OF_FLOWS: Final = ("flows", "members", "edges", "gates", "notes", "steps", "signals")
"""Tables that are kept of runs about workflows and batches."""

STANDSTILLS: Final = ("freeze", "stall", "stopped backends", "outage")
"""Faults after which a node has missed something."""


@dataclass(slots=True)
class Execution:
    """A job in the hands of one attempt, as the database saw it: from the fetch to whatever ended it."""

    job: int
    attempt: int
    holder: str
    fetched: float
    released: float | None = None
    became: str | None = None
    attempt_after: int | None = None
    txid: int | None = None
    run: Run | None = None


@dataclass(slots=True)
class Run:
    """One call of a job's code, as its process saw it; `end` is None where that is not known."""

    job: int
    attempt: int
    node: str
    holder: str
    queue: str
    worker: str
    key: str
    pid: int
    begin: float
    end: float | None = None
    how: str | None = None
    execution: Execution | None = None

    def __str__(self) -> str:
        end = "?" if self.end is None else f"{self.end:.3f}"
        where = f"attempt {self.attempt} on {self.node} ({self.holder[:8]})"
        return f"{where} {self.begin:.3f}..{end} {self.how or ''}".strip()


@dataclass(slots=True)
class Life:
    """A runner's process."""

    node: str
    slot: int
    pid: int
    started: float
    stopping: float | None = None
    killed: float | None = None
    ended: float | None = None
    code: int | None = None


@dataclass
class Evidence:
    """Everything that the checker looks at; moments are seconds of the machine's monotonic clock."""

    lines: list[dict[str, Any]] = field(default_factory=list)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    changes: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    executions: list[Execution] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    lives: dict[str, Life] = field(default_factory=dict)
    beats: dict[str, list[float]] = field(default_factory=dict)
    seen: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    """Of each producer when its beats could be seen, and the moments that they said; the same where not told."""
    nodes: dict[str, str] = field(default_factory=dict)
    effects: list[dict[str, Any]] = field(default_factory=list)
    producers: list[dict[str, Any]] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Those of workflows and batches; none where a run is not about them."""
    began: float = 0.0

    def said(self, *whats: str) -> list[dict[str, Any]]:
        """The lines of the ledger that are about these things."""
        return [line for line in self.lines if line["what"] in whats]

    def of(self, job: int) -> list[Run]:
        """The runs of a job, in order."""
        return [run for run in self.runs if run.job == job]

    def silent(self, holder: str, *, since: float, until: float) -> bool:
        """Whether a producer has given no sign of life for as long as a node must be silent that counts as dead.

        By the database's record of its beats: some silence that was not over before `since` had lasted for that long
        by `until`.
        """
        # By what others could see: a statement that begins as a sign of life may come late, or wait for a lock.
        seen = self.seen.get(holder) or [(beat, beat) for beat in self.beats.get(holder, [])]
        if not seen:
            return until - since >= DEAD_AFTER - SLACK
        last = max((said for visible, said in seen if visible <= since), default=seen[0][1])
        for visible, said in seen:
            if since < visible < until:
                if visible - last >= DEAD_AFTER - SLACK:
                    return True
                last = max(last, said)
        return until - last >= DEAD_AFTER - SLACK

    def free(self, node: str, since: float, until: float) -> bool:
        """Whether no fault touched a node in all that time, and the machine did not stand still."""
        if self.hampered(node, since) is None or any(
            since <= line["at"] <= until + 1 for line in self.said("lag", "server ends", "server is back")
        ):
            return False
        return not any(line["node"] == node and since <= line["at"] <= until for line in self.said("hampered"))

    def roots(self) -> dict[int, str]:
        """The workflow or batch that each member belongs to in the end, with all that is around it."""
        roots = {row["id"]: row["root_id"] for row in self.tables.get("flows", ())}
        return {row["job_id"]: roots[row["flow_id"]] for row in self.tables.get("members", ())}

    def cancelling(self) -> dict[int, list[float]]:
        """When the cancellation of each job was asked for, by itself, by a person, or with its workflow."""
        members: dict[str, list[int]] = defaultdict(list)
        for job, root in self.roots().items():
            members[root].append(job)
        moments: dict[int, list[float]] = defaultdict(list)
        for line in self.said("cancelling", "cutting"):
            for job in members[line["root"]] if "root" in line else [line["job"]]:
                moments[job].append(line["at"])
        return moments

    def hampered(self, node: str, moment: float) -> float | None:
        """When a node last stood still by the doing of a fault, by `moment`; None while any fault touches it."""
        last, open_ = float("-inf"), 0
        for line in self.lines:
            if line["at"] > moment:
                break
            if line.get("node") != node:
                continue
            if line["what"] == "hampered":
                open_ += 1
            elif line["what"] == "unhampered":
                open_ -= 1
                # One that was only cut off connects anew and asks at once; one that stood still has all to catch up.
                last = line["at"] if line["by"] in STANDSTILLS else last
        return None if open_ else last


def load(folder: Path) -> Evidence:
    """Read a run's folder."""
    found = Evidence(lines=list(ledger.read(folder / "ledger")))
    found.began = found.lines[0]["at"] if found.lines else 0.0
    found.rows = {row["id"]: row for row in _lines(folder / "rows.jsonl")}
    found.effects = _lines(folder / "effects.jsonl")
    found.producers = _lines(folder / "producers.jsonl")
    if (folder / "flows.jsonl").exists():
        found.tables = {name: _lines(folder / f"{name}.jsonl") for name in OF_FLOWS}
    found.logs = {path.stem: path.read_text() for path in sorted((folder / "logs").glob("*.log"))}
    beats: dict[str, list[float]] = defaultdict(list)
    seen: dict[str, list[tuple[float, float]]] = defaultdict(list)
    latest = 0.0
    for beat in _lines(folder / "beats.jsonl"):
        found.nodes[beat["holder"]] = beat["node"]
        if beat["what"] != "DELETE":
            beats[beat["holder"]].append(beat["at"])
        # They are in the order in which they were written, each no earlier than what the ones before it say.
        latest = max(latest, beat["at"])
        if beat["what"] != "DELETE":
            seen[beat["holder"]].append((latest, beat["at"]))
    found.beats = {holder: sorted(moments) for holder, moments in beats.items()}
    found.seen = dict(seen)
    changes: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for change in _lines(folder / "changes.jsonl"):
        changes[change["job"]].append(change)
    found.changes = dict(changes)
    put_in_order(found)
    return found


def put_in_order(found: Evidence) -> None:
    """Make the lives, runs and executions of the lines and changes."""
    _live(found)
    for each in found.changes.values():
        found.executions += _executions(each)
    found.executions.sort(key=lambda execution: execution.fetched)
    _run(found)
    _match(found)


def _live(found: Evidence) -> None:
    for line in found.said("started", "stopping", "killing", "exited"):
        if line["what"] == "started":
            found.lives[line["node"]] = Life(line["node"], line["slot"], line["process"], line["at"])
            continue
        life = found.lives[line["node"]]
        match line["what"]:
            case "stopping":
                life.stopping = line["at"]
            case "killing":
                life.killed = life.ended = line["at"]
            case _:
                life.ended = life.ended or line["at"]
                life.code = line["code"]


def _executions(changes: list[dict[str, Any]]) -> list[Execution]:
    executions: list[Execution] = []
    current: Execution | None = None
    for change in changes:
        stays = change["before"] == "executing" and change["after"] == "executing" and current is not None
        if stays and (change["attempt"], change["holder"]) == (current.attempt, current.holder):
            continue  # marked, as by a cancel
        if change["before"] == "executing" and current is not None:
            current.released, current.became = change["at"], change["after"]
            current.attempt_after, current.txid = change["attempt"], change["txid"]
            current = None
        if change["after"] == "executing":
            current = Execution(change["job"], change["attempt"], change["holder"] or "", change["at"])
            executions.append(current)
    return executions


def _run(found: Evidence) -> None:
    begun: dict[tuple[int, int, str, int], Run] = {}
    for line in found.said("begin", "end"):
        name = (line["job"], line["attempt"], line["holder"], line["pid"])
        if line["what"] == "begin":
            begun[name] = Run(
                *(line[each] for each in ("job", "attempt", "node", "holder", "queue", "worker", "key", "pid")),
                begin=line["at"],
            )
            found.runs.append(begun[name])
        elif name in begun:
            begun[name].end, begun[name].how = line["at"], line["how"]
    for run in found.runs:
        life = found.lives.get(run.node)
        if run.end is None and run.worker == "KillsItsProcess":
            run.end = run.begin
        elif run.end is None and life is not None:
            run.end = life.ended


def _match(found: Evidence) -> None:
    by_name: dict[tuple[int, int, str], list[Execution]] = defaultdict(list)
    for execution in found.executions:
        by_name[execution.job, execution.attempt, execution.holder].append(execution)
    for run in found.runs:
        before = [each for each in by_name[run.job, run.attempt, run.holder] if each.fetched <= run.begin + SLACK]
        if before:
            run.execution = before[-1]
            if before[-1].run is None:
                before[-1].run = run


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
