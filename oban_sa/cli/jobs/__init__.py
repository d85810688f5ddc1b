"""`python -m oban_sa jobs`: look at jobs and steer them; a file for each thing to do."""

from __future__ import annotations

from oban_sa.cli._groups import CONTEXT, Suggesting
from oban_sa.cli.jobs import adding, changing, listing, showing, updating

HELP = """Look at jobs, enqueue and change them, try them again, cancel them or delete them.

\b
Examples:
  python -m oban_sa jobs list                                      # the newest twenty
  python -m oban_sa jobs list --state retryable --queue mailers    # what failed and will be tried again
  python -m oban_sa jobs show 123                                  # all about one, with its errors
  python -m oban_sa jobs retry 123 124                             # try these again now
  python -m oban_sa jobs retry --state discarded --worker SendMail # and everything of a kind that was given up
  python -m oban_sa jobs enqueue app.jobs.SendMail --args to=ada --queue mailers
  python -m oban_sa jobs update 123 --queue slow --schedule-in 10m
  python -m oban_sa jobs cancel --queue mailers --state scheduled
  python -m oban_sa jobs delete --state completed --yes            # without being asked whether you are sure
  python -m oban_sa jobs list --state discarded --json | jq .jobs[].id
"""

command = Suggesting(
    "jobs",
    help=HELP,
    short_help="Look at jobs, enqueue, change, retry and delete them.",
    context_settings=CONTEXT,
)
for each in (
    listing.command,
    showing.command,
    adding.command,
    updating.command,
    changing.retry,
    changing.cancel,
    changing.delete,
):
    command.add_command(each)
