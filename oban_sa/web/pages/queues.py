"""Queues: what runs and waits in each, on which nodes, within which limits; pause, resume, scale and stop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from starlette.exceptions import HTTPException
from starlette.responses import Response

from oban_sa.client import JobCount, QueueCheck
from oban_sa.client.read import database_now, read_session
from oban_sa.sql import overview
from oban_sa.web.access import Verb
from oban_sa.web.audit import require, tell
from oban_sa.web.form import read_form
from oban_sa.web.page import Page
from oban_sa.web.pages.jobs import COUNTED, Tally, flash
from oban_sa.web.sparklines import Sparkline, sparklines
from oban_sa.wire.messages import EVERY

SILENT: Final = 30.0
"""Seconds without a heartbeat after which a node is shown as silent; after a third of them as slow."""

_VERBS: Final[dict[str, Verb]] = {"pause": "pause", "resume": "pause", "scale": "scale", "stop": "stop"}


@dataclass(slots=True)
class Line:
    """A queue, with the nodes that work on it, and how many of its jobs are in each state."""

    name: str
    nodes: list[QueueCheck] = field(default_factory=list[QueueCheck])
    elsewhere: list[str] = field(default_factory=list[str])
    counts: dict[str, Tally] = field(default_factory=dict[str, Tally])
    waiting_for: float | None = None
    spark: Sparkline | None = None
    """What ended of late, as far as runners have counted it."""
    paused: bool = False
    """Whether it was decided for all nodes."""

    @property
    def alive(self) -> list[QueueCheck]:
        """The nodes whose heartbeats arrive."""
        return [node for node in self.nodes if node.silent_for < SILENT]

    @property
    def available(self) -> int:
        """How many of its jobs could be fetched."""
        return self.counts.get("available", Tally("", 0, exact=True)).count

    @property
    def running(self) -> int:
        """How many of its jobs run on these nodes."""
        return sum(len(node.running) for node in self.alive)

    @property
    def limit(self) -> int:
        """How many may run at once on all of them."""
        return sum(node.limit or 0 for node in self.alive)

    @property
    def state(self) -> str:
        """What to say of the whole queue in a word."""
        if self.paused or (self.alive and all(node.paused for node in self.alive)):
            return "paused"
        if any(node.paused for node in self.alive):
            return "partly paused"
        if self.alive or self.elsewhere:
            return "running"
        return "silent" if self.nodes else "no node"

    def limits(self) -> list[str]:
        """Return what the limits for all nodes together are, once each."""
        return list(dict.fromkeys(str(node.limits) for node in self.alive if node.limits is not None))


async def queues(page: Page) -> Response:
    """Show every queue that has jobs, nodes or a pause."""
    reader = page.instance.reader
    counts = [each for each in await reader.count_jobs(exactly_to=COUNTED) if page.access.sees(each.queue)]
    checks = [each for each in await reader.check_queues() if page.access.sees(each.queue)]
    others = [each for each in await reader.check_elsewhere() if page.access.sees(each.queue)]
    pauses = await reader.check_pauses()
    halted = [each for each in await reader.list_halted_sequences() if page.access.sees(each.queue)]
    lines = _lines(counts, checks)
    for each in others:
        lines.setdefault(each.queue, Line(each.queue)).elsewhere.append(each.node)
    for pause in pauses:
        if pause.node is None and pause.queue != EVERY and page.access.sees(pause.queue):
            lines.setdefault(pause.queue, Line(pause.queue)).paused = True
    async with read_session(reader) as session:
        now = await database_now(session)
        waiting = [name for name, line in lines.items() if line.available]
        for row in (await session.execute(overview.oldest(), {"queues": waiting})).mappings():
            lines[row["queue"]].waiting_for = float(row["waiting_for"])
        for name, spark in (await sparklines(session, sorted(lines))).items():
            lines[name].spark = spark
    params = page.request.query_params
    return page.render(
        "queues.html",
        title="Queues",
        now=now,
        lines=[lines[name] for name in sorted(lines)],
        everything_paused=any(pause.queue == EVERY and pause.node is None for pause in pauses),
        halted=halted,
        silent=SILENT,
        flash=flash(params.get("done", ""), params.get("n", "")),
    )


async def act(page: Page) -> Response:
    """Pause, resume, scale or stop a queue on all nodes or one; or let a halted sequence go on."""
    form = await read_form(page.request)
    verb, queue, node = form.one("verb"), form.one("queue"), form.one("node") or None
    target = f"queue {queue}" + ("" if node is None else f" on {node}")
    oban = page.instance.oban
    if verb == "sequence":
        require(page, "retry", queue, target=f"sequence {form.one('key')} of {target}")
        await oban.resume_sequence(queue, form.one("key"))
        tell(page, "resume_sequence", target=f"sequence {form.one('key')} of {target}")
        return page.redirect("queues", done="sequence")
    if verb not in _VERBS:
        raise HTTPException(400, "A queue can be paused, resumed, scaled and stopped.")
    require(page, _VERBS[verb], queue, target=target)
    match verb:
        case "pause":
            await oban.pause_queue(queue, node=node)
        case "resume":
            await oban.resume_queue(queue, node=node)
        case "scale":
            word = form.one("limit")
            if not word.isascii() or not word.isdigit() or not 0 < len(word) < 10 or not int(word):
                raise HTTPException(400, f"A limit is a whole number of at least 1, not {word[:40]!r}.")
            target += f" to {int(word)}"
            await oban.scale_queue(queue, limit=int(word), node=node)
        case _:
            await oban.stop_queue(queue, node=node)
    tell(page, verb, target=target)
    return page.redirect("queues", done=verb)


def _lines(counts: list[JobCount], checks: list[QueueCheck]) -> dict[str, Line]:
    found: dict[str, Line] = {}
    for count in counts:
        line = found.setdefault(count.queue, Line(count.queue))
        line.counts[count.state.value] = Tally(count.state.value, count.count, count.exact)
    for check in checks:
        found.setdefault(check.queue, Line(check.queue)).nodes.append(check)
    return found
