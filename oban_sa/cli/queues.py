"""`python -m oban_sa queues`: show queues, pause, resume, scale and limit them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import click

from oban_sa.cli._database import Command, database_options, instance_option, json_option, run_with_client
from oban_sa.cli._groups import CONTEXT, Suggesting
from oban_sa.cli._limits import as_written, by, decided, in_words, number, rate, read, read_weights
from oban_sa.cli._output import document, say
from oban_sa.cli._queues import Served, elsewhere_as_json
from oban_sa.client import Oban
from oban_sa.errors import InvalidOption, nearest
from oban_sa.settings.settings import Settings

HELP = """Look at queues, pause and resume them, and change how many jobs of each run at once.

What is decided here reaches running nodes at once and outlives them: it holds for those that start later too.

\b
Examples:
  python -m oban_sa queues list
  python -m oban_sa queues pause mailers              # on all nodes; running jobs go on
  python -m oban_sa queues pause --all --node web.1   # every queue of one node
  python -m oban_sa queues resume mailers
  python -m oban_sa queues scale mailers 50           # each node runs up to 50 at once
  python -m oban_sa queues limit calls --global 30    # all nodes together run up to 30 at once
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

LIMIT = """Set limits of a queue that hold for all nodes together.

They come before what the nodes' own settings say, until --reset. What is not named stays as it is; "none" takes a limit
away, --off all of them. Jobs that run go on.

\b
Examples:
  python -m oban_sa queues limit calls --global 30        # run up to 30 at once in the cluster
  python -m oban_sa queues limit calls --each 5           # up to 5 of each partition, as workers say: partition=...
  python -m oban_sa queues limit calls --rate 60/minute   # start up to 60 a minute; by partition: of each
  python -m oban_sa queues limit calls --weight acme=3    # three jobs of acme in each turn
  python -m oban_sa queues limit calls --rate none
  python -m oban_sa queues limit calls --off
  python -m oban_sa queues limit calls --reset            # as the settings of the nodes say
"""

command = Suggesting(
    "queues", help=HELP, short_help="Look at queues, pause, resume, scale and limit them.", context_settings=CONTEXT
)


def node_option(function: Command) -> Command:
    """Add --node to a command."""
    return click.option("--node", metavar="NAME", help="Only on this node, as `queues list` shows it.")(function)


@command.command("list", help="Show the queues of every node, and those whose jobs no node is known to take.")
@json_option
@instance_option
@database_options
def list_(settings: Settings, *, as_json: bool) -> None:
    """Print queues by node."""

    async def ask(oban: Oban) -> Served:
        return await Served.read(oban, settings, await oban.count_jobs())

    served = run_with_client(settings, ask)
    if as_json:
        document(
            {
                "instance": settings.name,
                "queues": served.queues,
                "elsewhere": elsewhere_as_json(served.others),
                "unserved": [{"queue": name, "available": number} for name, number in served.orphans().items()],
                "pauses": served.pauses,
                **served.usage.as_json(),
            }
        )
    else:
        served.show(none=f"No node of {settings.name} runs.")


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
        warnings = await _warn_of_unknown(oban, (queue,), node)
        await oban.scale_queue(queue, limit=limit, node=node)
        return warnings

    warnings = run_with_client(settings, work)
    _say(settings, [queue], f"runs up to {limit} at once", node, {"limit": limit}, warnings, as_json=as_json)


@command.command("limit", help=LIMIT, short_help=LIMIT.partition("\n")[0], no_args_is_help=True)
@click.argument("queue")
@click.option(
    "--global",
    "global_limit",
    metavar="N",
    callback=read(number),
    help="Jobs that run at once in the cluster, or none.",
)
@click.option(
    "--by", metavar="partition", callback=read(by), help='"partition": workers say what the partitions are; or none.'
)
@click.option(
    "--each", metavar="N", callback=read(number), help="Jobs of one partition that run at once in the cluster, or none."
)
@click.option(
    "--rate",
    metavar="RATE",
    callback=read(rate),
    help="Starts in a time, such as 60/minute or 10 per 5 minutes, or none.",
)
@click.option("--burst/--no-burst", default=None, help="A partition may exceed --each while no other has jobs.")
@click.option("--fair/--no-fair", default=None, help="Partitions take turns, or jobs start in the queue's order.")
@click.option(
    "--weight",
    "weights",
    metavar="KEY=N",
    multiple=True,
    callback=read_weights,
    help="Jobs of a partition in a turn; repeatable.",
)
@click.option("--off", is_flag=True, help="Take all limits away.")
@click.option("--reset", is_flag=True, help="Do again as the settings of the nodes say.")
@json_option
@instance_option
@database_options
def limit(settings: Settings, *, queue: str, off: bool, reset: bool, as_json: bool, **given: object) -> None:
    """Change the limits of a queue."""
    limits = decided(given, off=off, reset=reset)

    async def work(oban: Oban) -> list[str]:
        warnings = await _warn_of_unknown(oban, (queue,), None)
        await (oban.reset_queue_limits(queue) if reset else oban.limit_queue(queue, **limits))
        return warnings

    warnings = run_with_client(settings, work)
    done = "has the limits of its nodes' settings" if reset else "has no limits" if off else f"has {in_words(limits)}"
    _say(settings, [queue], done, None, {"limits": None if reset else as_written(limits)}, warnings, as_json=as_json)


def _steer(
    settings: Settings, verb: str, queues: tuple[str, ...], *, every: bool, node: str | None, as_json: bool
) -> None:
    if every == bool(queues):
        raise InvalidOption(f"which queues? Write their names: queues {verb} mailers reports, or --all")

    async def work(oban: Oban) -> list[str]:
        warnings = await _warn_of_unknown(oban, queues, node)
        if every:
            all_queues: Callable[..., Awaitable[None]] = (
                oban.pause_all_queues if verb == "pause" else oban.resume_all_queues
            )
            await all_queues(node=node)
        one: Callable[..., Awaitable[None]] = oban.pause_queue if verb == "pause" else oban.resume_queue
        for queue in queues:
            await one(queue, node=node)
        return warnings

    warnings = run_with_client(settings, work)
    done = "is paused" if verb == "pause" else "is resumed"
    _say(settings, queues or ["*"], done, node, {"paused": verb == "pause"}, warnings, as_json=as_json)


async def _warn_of_unknown(oban: Oban, queues: Sequence[str], node: str | None) -> list[str]:
    """Return a warning for each queue and node that is not there now; the decision is stored all the same."""
    checks = await oban.check_queues()
    others = await oban.check_elsewhere()
    nodes = {check.node for check in checks} | {each.node for each in others}
    names = {check.queue for check in checks} | {each.queue for each in others}
    warnings: list[str] = []
    if node is not None and node not in nodes:
        warnings.append(f"no node {node!r} runs now, so this holds once it starts{nearest(node, sorted(nodes))}")
    warnings += [
        f"no node works on the queue {queue!r} now, so this holds once one does{nearest(queue, sorted(names))}"
        for queue in queues
        if queue not in names
    ]
    return warnings


def _say(
    settings: Settings,
    queues: Sequence[str],
    done: str,
    node: str | None,
    decided: Mapping[str, object],
    warnings: Sequence[str],
    *,
    as_json: bool,
) -> None:
    if as_json:
        document({"instance": settings.name, "queues": list(queues), "node": node, **decided})
    else:
        where = f"on the node {node}" if node is not None else f"on all nodes of {settings.name}"
        for queue in queues:
            say(f"{'Every queue' if queue == '*' else f'The queue {queue}'} {done} {where}.")
    for warning in warnings:
        say(f"Note: {warning}", err=True)
