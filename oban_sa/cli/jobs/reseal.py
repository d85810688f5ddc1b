"""`jobs reseal`: encrypt args with the newest key."""

from __future__ import annotations

from typing import Final

import click

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._output import document, say
from oban_sa.client import Oban
from oban_sa.client.encryption import Resealed
from oban_sa.describe.spans import count
from oban_sa.schedule import clock
from oban_sa.service.command import Failed
from oban_sa.settings.settings import Settings

HELP = """Encrypt the args of all encrypted jobs with the newest key, so that older ones can be taken away.

\b
Examples:
  python -m oban_sa jobs reseal                  # keys from OBAN_KEYS, or from the file that OBAN_KEYS_FILE names
  python -m oban_sa jobs reseal --json

The newest key is the first one; the others are needed to read. It goes through all jobs a thousand at a time, while
runners work, and may be stopped and begun again. Jobs that are executing are left out: run it again until none is left.
"""

_EVERY: Final = 1.0
"""Seconds between two words on the progress."""

_FEW: Final = 10
"""Ids that are named."""


@click.command("reseal", help=HELP, short_help="Encrypt args with the newest key.")
@json_option
@database_options
def command(settings: Settings, *, as_json: bool) -> None:
    """Seal jobs anew."""
    told_at = clock.monotonic()

    def tell(so_far: Resealed) -> None:
        nonlocal told_at
        if clock.monotonic() - told_at >= _EVERY:
            told_at = clock.monotonic()
            say(f"{count(so_far.resealed, 'job')} so far", err=True)

    async def work(oban: Oban) -> Resealed:
        return await oban.reseal_jobs(on_progress=tell)

    done = run_with_client(settings, work)
    if as_json:
        document({"resealed": done.resealed, "left": done.left, "unreadable": list(done.unreadable)})
    else:
        say(f"{count(done.resealed, 'job')} encrypted with the newest key.")
        if done.left:
            say(f"{count(done.left, 'job')} executing or locked; run it again once they have ended.")
    if done.unreadable:
        some = ", ".join(map(str, done.unreadable[:_FEW])) + (", ..." if len(done.unreadable) > _FEW else "")
        jobs = count(len(done.unreadable), "job")
        raise Failed(f"no key that is given reads {jobs}: {some}; give the older keys too")
