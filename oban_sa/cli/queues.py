"""`python -m oban_sa queues`: look at queues, pause and resume them, change their limits."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from typing import Any

import click

from oban_sa.cli._connecting import asked, database_options, instance_option, json_option
from oban_sa.cli._groups import CONTEXT, Suggesting
from oban_sa.cli._printing import document, say, span, table
from oban_sa.client import Oban
from oban_sa.client.queues import Elsewhere
from oban_sa.errors import InvalidOption, nearest
from oban_sa.messages import EVERY
from oban_sa.settings import Settings
from oban_sa.states import JobState

HELP = """Look at queues, pause and resume them, and change how many jobs of each run at once.

What is decided here reaches running nodes at once and outlives them: it holds for those that start later too.

\b
Examples:
  python -m oban_sa queues list
  python -m oban_sa queues pause mailers              # on all nodes; running jobs go on
  python -m oban_sa queues pause --all --node web.1   # every queue of one node
  python -m oban_sa queues resume mailers
  python -m oban_sa queues scale mailers 50           # each node runs up to 50 at once
"""

PAUSE = """Start no more jobs of queues; those that run go on.

\b
Examples:
  python -m oban_sa queues pause mailers reports
  python -m oban_sa queues pause mailers --node web.1     # only there
  python -m oban_sa queues pause --all
"""

RESUME = """Start jobs of queues again.

\b
Examples:
  python -m oban_sa queues resume mailers
  python -m oban_sa queues resume --all --node web.1
"""

SCALE = """Let so many jobs of a queue run at once on each node.

\b
Examples:
  python -m oban_sa queues scale mailers 50
  python -m oban_sa queues scale mailers 5 --node web.1
"""

command = Suggesting(
    "queues", help=HELP, short_help="Look at queues, pause, resume and scale them.", context_settings=CONTEXT
)


def node_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add --node to a command."""
    return click.option("--node", metavar="NAME", help="Only on this node, as `queues list` shows it.")(function)


@command.command("list", help="Show the queues of every node, and those whose jobs no node is known to take.")
@json_option
@instance_option
@database_options
def list_(settings: Settings, *, as_json: bool) -> None:
    """Print queues by node."""

    async def ask(
        oban: Oban,
    ) -> tuple[list[dict[str, Any]], dict[str, int], list[Elsewhere], list[dict[str, Any]]]:
        waiting = {each.queue: each.count for each in await oban.count_jobs() if each.state is JobState.AVAILABLE}
        queues = [described(check, settings) for check in await oban.check_queues()]
        pauses = [asdict(pause) for pause in await oban.check_pauses()]
        return queues, waiting, await oban.check_elsewhere(), pauses

    queues, waiting, others, pauses = asked(settings, ask)
    served = {queue["queue"] for queue in queues} | {each.queue for each in others}
    orphans = {name: number for name, number in sorted(waiting.items()) if name not in served}
    if as_json:
        unserved = [{"queue": name, "available": number} for name, number in orphans.items()]
        document(
            {
                "instance": settings.name,
                "queues": queues,
                "elsewhere": told(others),
                "unserved": unserved,
                "pauses": pauses,
            }
        )
        return
    if queues:
        print_queues(queues, waiting)
        print_unknown(queues)
    else:
        click.echo(f"No node of {settings.name} runs.")
    say_others(others, waiting)
    say_orphans(orphans)
    print_pauses(pauses, queues)


def told(others: Sequence[Elsewhere]) -> list[dict[str, Any]]:
    """Nodes of others, as JSON."""
    return [{"queue": each.queue, "node": each.node, "running": list(each.running)} for each in others]


def say_others(others: Sequence[Elsewhere], waiting: dict[str, int]) -> None:
    """Say which nodes of others run jobs, or could; `waiting` is how many jobs of a queue are available."""
    for each in others:
        number, runs = waiting.get(each.queue, 0), len(each.running)
        if number or runs:
            running = f"runs {runs:,} of its jobs now" if runs else "runs none that is known"
            say(f"The queue {each.queue}, {number:,} available, has another node: {each.node}, which {running}.")


def say_orphans(orphans: dict[str, int]) -> None:
    """Say which queues have available jobs and no node that is known to take them."""
    for name, number in orphans.items():
        say(f"No node is known to work on the queue {name}, which has {number:,} available.")


def described(check: Any, settings: Settings) -> dict[str, Any]:
    """A queue on a node, as JSON."""
    return {
        "queue": check.queue,
        "node": check.node,
        "limit": check.limit,
        "paused": check.paused,
        "running": list(check.running),
        "started_at": check.started_at,
        "silent_for": round(check.silent_for, 3),  # infinite where the last heartbeat is no moment
        "alive": check.silent_for < settings.dead_after,
        "unknown": list(check.unknown),
    }


def print_queues(queues: Sequence[dict[str, Any]], waiting: dict[str, int]) -> None:
    """Print a table of what `described` makes; `waiting` is how many jobs of a queue are available."""
    rows = [
        (
            queue["queue"],
            queue["node"],
            queue["limit"],
            len(queue["running"]),
            waiting.get(queue["queue"], 0),
            "silent" if not queue["alive"] else "paused" if queue["paused"] else "running",
            _ago(queue["silent_for"]),
            f"{queue['started_at']:%Y-%m-%d %H:%M:%S} UTC",
        )
        for queue in queues
    ]
    columns = ("queue", "node", "limit", "executing", "available", "state", "heartbeat", "started")
    table(columns, rows, right=("limit", "executing", "available"), wide="node")


def print_unknown(queues: Sequence[dict[str, Any]]) -> None:
    """Name the workers whose jobs wait for a program that knows them, of what `described` makes."""
    without: dict[tuple[str, str], list[str]] = {}
    for queue in queues:
        for worker in queue["unknown"]:
            without.setdefault((queue["queue"], worker), []).append(queue["node"])
    for (name, worker), nodes in sorted(without.items()):
        alive = [queue for queue in queues if queue["queue"] == name and queue["alive"]]
        others = len({queue["node"] for queue in alive} - set(nodes))
        else_ = f"{others} other nodes may know it" if others != 1 else "1 other node may know it"
        said = "no other node works on the queue" if not others else else_
        say(f"Jobs of {worker} in {name} wait for a program that knows it; {', '.join(nodes)} does not, {said}.")


def print_pauses(pauses: Sequence[dict[str, Any]], queues: Sequence[dict[str, Any]]) -> None:
    """Print the pauses that no row of the table shows, since no node works on the queue now."""
    for pause in pauses:
        name, node = pause["queue"], pause["node"]
        where = "on all nodes" if node is None else f"on the node {node}"
        again = "queues resume " + ("--all" if name == EVERY else name) + ("" if node is None else f" --node {node}")
        if name == EVERY:
            say(f"Every queue is paused {where}, those of nodes that start later too; `{again}` ends that.")
        elif not any(queue["queue"] == name and node in (None, queue["node"]) for queue in queues):
            say(f"The queue {name} is paused {where}, though no node works on it now; `{again}` ends that.")


def _ago(seconds: float) -> str:
    return "never" if math.isinf(seconds) else f"{span(seconds)} ago"


@command.command("pause", help=PAUSE, short_help=PAUSE.partition("\n")[0], no_args_is_help=True)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--all", "every", is_flag=True, help="Every queue, those of later nodes included.")
@node_option
@json_option
@instance_option
@database_options
def pause(settings: Settings, *, queues: tuple[str, ...], every: bool, node: str | None, as_json: bool) -> None:
    """Pause queues."""
    _steer(settings, "pause", queues, every=every, node=node, as_json=as_json)


@command.command("resume", help=RESUME, short_help=RESUME.partition("\n")[0], no_args_is_help=True)
@click.argument("queues", nargs=-1, metavar="[QUEUE]...")
@click.option("--all", "every", is_flag=True, help="Every queue, those paused singly too.")
@node_option
@json_option
@instance_option
@database_options
def resume(settings: Settings, *, queues: tuple[str, ...], every: bool, node: str | None, as_json: bool) -> None:
    """Resume queues."""
    _steer(settings, "resume", queues, every=every, node=node, as_json=as_json)


@command.command("scale", help=SCALE, short_help=SCALE.partition("\n")[0], no_args_is_help=True)
@click.argument("queue")
@click.argument("limit", type=click.IntRange(1, 100_000))
@node_option
@json_option
@instance_option
@database_options
def scale(settings: Settings, *, queue: str, limit: int, node: str | None, as_json: bool) -> None:
    """Change a queue's limit."""

    async def work(oban: Oban) -> list[str]:
        unknown = await _unknown(oban, (queue,), node)
        await oban.scale_queue(queue, limit=limit, node=node)
        return unknown

    unknown = asked(settings, work)
    _say(settings, [queue], f"runs up to {limit} at once", node, {"limit": limit}, unknown, as_json=as_json)


def _steer(
    settings: Settings, verb: str, queues: tuple[str, ...], *, every: bool, node: str | None, as_json: bool
) -> None:
    if every == bool(queues):
        raise InvalidOption(f"which queues? Write their names: queues {verb} mailers reports, or --all")

    async def work(oban: Oban) -> list[str]:
        unknown = await _unknown(oban, queues, node)
        if every:
            all_queues: Callable[..., Awaitable[None]] = (
                oban.pause_all_queues if verb == "pause" else oban.resume_all_queues
            )
            await all_queues(node=node)
        one: Callable[..., Awaitable[None]] = oban.pause_queue if verb == "pause" else oban.resume_queue
        for queue in queues:
            await one(queue, node=node)
        return unknown

    unknown = asked(settings, work)
    done = "is paused" if verb == "pause" else "is resumed"
    _say(settings, queues or ["*"], done, node, {"paused": verb == "pause"}, unknown, as_json=as_json)


async def _unknown(oban: Oban, queues: Sequence[str], node: str | None) -> list[str]:
    """Return warnings about names that nobody has; what is decided about them is kept all the same."""
    checks = await oban.check_queues()
    others = await oban.check_elsewhere()
    nodes = {check.node for check in checks} | {each.node for each in others}
    names = {check.queue for check in checks} | {each.queue for each in others}
    said: list[str] = []
    if node is not None and node not in nodes:
        said.append(f"no node {node!r} runs now, so this holds once it starts{nearest(node, sorted(nodes))}")
    said += [
        f"no node works on the queue {queue!r} now, so this holds once one does{nearest(queue, sorted(names))}"
        for queue in queues
        if queue not in names
    ]
    return said


def _say(
    settings: Settings,
    queues: Sequence[str],
    done: str,
    node: str | None,
    decided: dict[str, Any],
    unknown: Sequence[str],
    *,
    as_json: bool,
) -> None:
    if as_json:
        document({"instance": settings.name, "queues": list(queues), "node": node, **decided})
    else:
        where = f"on the node {node}" if node is not None else f"on all nodes of {settings.name}"
        for queue in queues:
            say(f"{'Every queue' if queue == '*' else f'The queue {queue}'} {done} {where}.")
    for warning in unknown:
        say(f"Note: {warning}", err=True)
