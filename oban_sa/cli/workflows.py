"""`python -m oban_sa workflows`: look at workflows and batches, cancel and retry them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._groups import CONTEXT, Suggesting
from oban_sa.cli._output import document, say, table
from oban_sa.client import Oban
from oban_sa.client.workflows import WorkflowStatus
from oban_sa.describe.spans import count, span
from oban_sa.settings.settings import Settings

HELP = """Look at workflows and batches, cancel and retry them.

\b
Examples:
  python -m oban_sa workflows list --state executing
  python -m oban_sa workflows show 01936f3e-7c11-7d52-8a4e-1f5a0c9b2d61
  python -m oban_sa workflows retry 01936f3e-7c11-7d52-8a4e-1f5a0c9b2d61 --from total
"""

LIST = """Show workflows and batches, the newest first.

\b
Examples:
  python -m oban_sa workflows list
  python -m oban_sa workflows list --state discarded --name nightly
"""

SHOW = """Show how a workflow or batch stands, and what is inside of it.

\b
Examples:
  python -m oban_sa workflows show 01936f3e-7c11-7d52-8a4e-1f5a0c9b2d61
  python -m oban_sa jobs list --meta workflow_id=01936f3e-7c11-7d52-8a4e-1f5a0c9b2d61   # its jobs
"""

CANCEL = """Cancel all jobs of a workflow or batch that have not ended.

Those executing are asked to stop.

\b
Examples:
  python -m oban_sa workflows cancel 01936f3e-7c11-7d52-8a4e-1f5a0c9b2d61
"""

RETRY = """Run again what failed in a workflow or batch, and what was cancelled because of it.

\b
Examples:
  python -m oban_sa workflows retry 01936f3e-7c11-7d52-8a4e-1f5a0c9b2d61
  python -m oban_sa workflows retry 01936f3e-7c11-7d52-8a4e-1f5a0c9b2d61 --from total   # and all that wait for it
"""

command = Suggesting(
    "workflows", help=HELP, short_help="Look at workflows and batches, cancel and retry them.", context_settings=CONTEXT
)


@command.command("list", help=LIST, short_help=LIST.partition("\n")[0])
@click.option("--name", "named", metavar="NAME", help="Only those of this name.")
@click.option(
    "--state", type=click.Choice(["executing", "completed", "cancelled", "discarded"]), help="Only those in this state."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="How many at most.")
@json_option
@database_options
def list_(settings: Settings, *, named: str | None, state: str | None, limit: int, as_json: bool) -> None:
    """Print workflows."""

    async def ask(oban: Oban) -> list[WorkflowStatus]:
        return await oban.list_workflows(name=named, state=state, limit=limit)

    found = run_with_client(settings, ask)
    if as_json:
        document({"workflows": [_as_json(each) for each in found]})
        return
    if not found:
        click.echo("No workflow or batch is there.")
        return
    rows = [
        (
            each.id,
            each.kind,
            each.name,
            each.state,
            _progress(each),
            each.discarded,
            f"{each.inserted_at:%Y-%m-%d %H:%M:%S} UTC",
        )
        for each in found
    ]
    table(("id", "kind", "name", "state", "ended", "discarded", "made"), rows, right=("discarded",), wide="name")


@command.command("show", help=SHOW, short_help=SHOW.partition("\n")[0], no_args_is_help=True)
@click.argument("workflow")
@json_option
@database_options
def show(settings: Settings, *, workflow: str, as_json: bool) -> None:
    """Print one workflow."""

    async def ask(oban: Oban) -> WorkflowStatus:
        return await oban.workflow(workflow)

    found = run_with_client(settings, ask)
    if as_json:
        document(_as_json(found))
        return
    said = f"{found.kind} {found.id}" if found.name is None else f"{found.kind} {found.name} ({found.id})"
    say(f"{said} is {found.state}.")
    say(f"{_bar(found)} {_progress(found)}" + ("" if found.duration is None else f" in {span(found.duration)}"))
    for name in ("completed", "cancelled", "discarded"):
        if number := getattr(found, name):
            say(f"  {name}: {number:,}")
    if found.subs:
        rows = [
            (path, each.kind, each.state, _progress(each), each.discarded) for path, each in _inside("", found.subs)
        ]
        table(("name", "kind", "state", "ended", "discarded"), rows, right=("discarded",), wide="name")
    if failed := list(_failed(found)):
        for each in failed[:FEW]:
            key = "batch_id" if each.kind == "batch" else "workflow_id"
            state = "discarded" if each.discarded else "cancelled"
            say(f"`jobs list --meta {key}={each.id} --state {state}` shows what failed.")
        say(f"`workflows retry {found.id}` runs it again.")


@command.command("cancel", help=CANCEL, short_help=CANCEL.partition("\n")[0], no_args_is_help=True)
@click.argument("workflow")
@json_option
@database_options
def cancel(settings: Settings, *, workflow: str, as_json: bool) -> None:
    """Cancel a workflow."""

    async def work(oban: Oban) -> int:
        return await oban.cancel_workflow(workflow)

    jobs = run_with_client(settings, work)
    if as_json:
        document({"workflow": workflow, "cancelled": jobs})
    else:
        say(f"Cancelled {count(jobs, 'job')}; those executing are asked to stop." if jobs else "All jobs had ended.")


@command.command("retry", help=RETRY, short_help=RETRY.partition("\n")[0], no_args_is_help=True)
@click.argument("workflow")
@click.option(
    "--from", "from_", metavar="NAME", help="This member, group or workflow inside, and all that wait for it."
)
@click.option(
    "--attempts", type=click.IntRange(1, 10_000), default=1, show_default=True, help="Attempts that each has left."
)
@click.option("--callbacks", is_flag=True, help="Make the jobs of callbacks of batches again, as it ends anew.")
@json_option
@database_options
def retry(
    settings: Settings, *, workflow: str, from_: str | None, attempts: int, callbacks: bool, as_json: bool
) -> None:
    """Retry a workflow."""

    async def work(oban: Oban) -> int:
        return await oban.retry_workflow(workflow, from_=from_, attempts=attempts, callbacks=callbacks)

    jobs = run_with_client(settings, work)
    if as_json:
        document({"workflow": workflow, "retried": jobs})
    elif jobs:
        say(f"{count(jobs, 'job')} {'runs' if jobs == 1 else 'run'} again, each after what it waits for.")
    else:
        say(
            "Nothing had failed; --from NAME runs again what was completed."
            if from_ is None
            else f"Nothing of {from_}, or of what waits for it, had ended."
        )


FEW = 5
"""Workflows inside that are named where something failed in them."""

WIDTH = 20
"""Characters of a bar."""


def _bar(status: WorkflowStatus) -> str:
    done = WIDTH if not status.total else WIDTH * (status.total - status.unfinished) // status.total
    return f"[{'#' * done}{'.' * (WIDTH - done)}]"


def _progress(status: WorkflowStatus) -> str:
    return f"{status.total - status.unfinished:,} of {status.total:,}"


def _inside(prefix: str, subs: Mapping[str, WorkflowStatus]) -> Iterator[tuple[str, WorkflowStatus]]:
    for name, each in subs.items():
        yield f"{prefix}{name}", each
        yield from _inside(f"{prefix}{name}.", each.subs)


def _failed(status: WorkflowStatus) -> Iterator[WorkflowStatus]:
    """Yield the workflows in which members of their own have failed: the meta of these has the id of the inner one."""
    inner = [each for each in status.subs.values() if each.kind == "workflow"]
    within = sum(each.discarded + each.cancelled for each in inner)
    if status.discarded + status.cancelled > within:
        yield status
    for each in inner:
        yield from _failed(each)


def _as_json(status: WorkflowStatus) -> dict[str, object]:
    return {
        "id": str(status.id),
        "kind": status.kind,
        "name": status.name,
        "state": str(status.state),
        "total": status.total,
        "unfinished": status.unfinished,
        "completed": status.completed,
        "cancelled": status.cancelled,
        "discarded": status.discarded,
        "inserted_at": status.inserted_at,
        "started_at": status.started_at,
        "completed_at": status.completed_at,
        "duration": status.duration,
        "subs": {name: _as_json(each) for name, each in status.subs.items()},
    }
