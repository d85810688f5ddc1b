"""`jobs signal`: send a signal to a job that waits for one, or will."""

from __future__ import annotations

import click

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._output import document, say
from oban_sa.cli.jobs.words import plain, read_ids
from oban_sa.client import Oban
from oban_sa.errors import shown
from oban_sa.settings.settings import Settings
from oban_sa.wire import json_text

HELP = """Send a signal to a job, which its wait_for(NAME) returns, whether it waits already or comes to that later.

\b
Examples:
  python -m oban_sa jobs show 123                        # which signal it waits for
  python -m oban_sa jobs signal 123 approval
  python -m oban_sa jobs signal 123 approval '{"ok": true, "by": "ada"}'

PAYLOAD is JSON; without one it is null. A job that has ended takes no signal, and the exit code is 1.
"""


def read_name(_ctx: click.Context, _argument: click.Parameter, word: str) -> str:
    """Accept a text; raises `click.BadParameter` for what is no UTF-8."""
    return plain(word)


def read_payload(_ctx: click.Context, _argument: click.Parameter, word: str | None) -> object:
    """Read JSON; raises `click.BadParameter`."""
    if word is None:
        return None
    try:
        return json_text.read(plain(word))
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"{shown(word, 80)} is not JSON: {error}; a text is written '\"yes\"'") from None


@click.command("signal", help=HELP, short_help="Send a signal to a job that waits for one.", no_args_is_help=True)
@click.argument("job_id", metavar="ID", callback=read_ids)
@click.argument("signal", metavar="NAME", callback=read_name)
@click.argument("payload", required=False, callback=read_payload)
@json_option
@database_options
def command(settings: Settings, *, job_id: int, signal: str, payload: object, as_json: bool) -> None:
    """Send a signal."""

    async def send(oban: Oban) -> None:
        await oban.signal(job_id, signal, payload)

    run_with_client(settings, send)
    if as_json:
        document({"job": job_id, "signal": signal, "payload": payload})
    else:
        say(f"Sent {shown(signal)} to job {job_id}.")
