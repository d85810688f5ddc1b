"""`python -m oban_sa sequences`: show which sequences are halted, and let them go on."""

from __future__ import annotations

import click

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._groups import CONTEXT, Suggesting
from oban_sa.cli._output import document, say, table
from oban_sa.cli._usage import halted_as_json
from oban_sa.client import Oban
from oban_sa.client.sequences import HaltedSequence
from oban_sa.settings.settings import Settings

HELP = """Look at sequences that a discarded job has halted, and let them go on.

A worker with sequence=... and on_failure="halt" runs the jobs of a key one after the other, and stops where one of them
is discarded. `jobs show ID` tells why it was; `jobs retry ID` tries it once more, and the others after it.

\b
Examples:
  python -m oban_sa sequences list
  python -m oban_sa sequences resume ledger 17    # go on without the discarded job
"""

LIST = """Show the sequences that are halted, and which job halted each.

\b
Examples:
  python -m oban_sa sequences list
  python -m oban_sa jobs show 4711                # why the job that halted one was discarded
"""

RESUME = """Let the jobs of a sequence go on without the discarded job that halted it.

KEY is what `sequences list` shows.

\b
Examples:
  python -m oban_sa sequences resume ledger 17
  python -m oban_sa jobs retry 4711               # or have the discarded job done first
"""

command = Suggesting(
    "sequences", help=HELP, short_help="Look at halted sequences, and let them go on.", context_settings=CONTEXT
)


@command.command("list", help=LIST)
@json_option
@database_options
def list_(settings: Settings, *, as_json: bool) -> None:
    """Print the halted sequences."""

    async def ask(oban: Oban) -> list[HaltedSequence]:
        return await oban.list_halted_sequences()

    found = run_with_client(settings, ask)
    if as_json:
        document({"halted": [halted_as_json(each) for each in found]})
        return
    if not found:
        click.echo("No sequence is halted.")
        return
    rows = [
        (
            each.queue,
            each.key,
            each.job_id,
            each.worker,
            None if each.discarded_at is None else f"{each.discarded_at:%Y-%m-%d %H:%M:%S} UTC",
            each.waiting,
        )
        for each in found
    ]
    table(("queue", "key", "job", "worker", "discarded", "waiting"), rows, right=("job", "waiting"), wide="key")
    say("`jobs retry JOB` has it done first; `sequences resume QUEUE KEY` goes on without it.")


@command.command("resume", help=RESUME, short_help=RESUME.partition("\n")[0], no_args_is_help=True)
@click.argument("queue")
@click.argument("key")
@json_option
@database_options
def resume(settings: Settings, *, queue: str, key: str, as_json: bool) -> None:
    """Resume a sequence."""

    async def work(oban: Oban) -> list[int]:
        return await oban.resume_sequence(queue, key)

    ids = run_with_client(settings, work)
    if as_json:
        document({"queue": queue, "key": key, "jobs": ids})
    elif ids:
        without = " and ".join(f"job {each}" for each in ids)
        say(f"The sequence {key} of the queue {queue} goes on without {without}, which stays discarded.")
    else:
        say(f"No job halts the sequence {key} of the queue {queue}; `sequences list` shows those that are halted.")
