"""`python -m oban_sa jobs`: list, show, enqueue, update, retry, cancel, signal and delete jobs."""

from __future__ import annotations

from oban_sa.cli._groups import CONTEXT, Suggesting
from oban_sa.cli.jobs import change, enqueue, listing, reseal, show, signal, update

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
  python -m oban_sa jobs signal 123 approval '{"ok": true}'        # which its wait_for("approval") returns
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
    show.command,
    enqueue.command,
    update.command,
    change.retry,
    change.cancel,
    change.delete,
    signal.command,
    reseal.command,
):
    command.add_command(each)
