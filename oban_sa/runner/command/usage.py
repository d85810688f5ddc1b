"""How the flags of the runner's command are shown, and what is said to those who type other ones."""

from __future__ import annotations

from typing import Any, Final

import click

GROUPS: Final[dict[str, tuple[str, ...]]] = {
    "Where jobs are": ("database_url", "dsn", "embedded", "schema", "prefix", "pooler", "listen_url"),
    "What is done": ("imports", "queues", "allow", "middleware", "until_idle", "dry_run"),
    "Sessions that workers get": ("sessions", "translate", "idle_in_transaction_after"),
    "More than one processor": ("processes", "process_pool", "recycle_after"),
    "Time": (
        "grace",
        "poll_every",
        "stage_every",
        "heartbeat_every",
        "dead_after",
        "abandoned_after",
        "keep_young_after",
        "unknown_after",
        "blocked_after",
        "prune",
    ),
    "What others see": (
        "node",
        "name",
        "metrics",
        "health_port",
        "health_host",
        "log_level",
        "log_format",
    ),
}
"""Parameters below the headings of the help, in the order of reading; those about the command itself come last."""

ELSEWHERE: Final = {
    "--workers": "how many jobs run at once is said for each queue, --queues default:20; runners are --processes 4",
    "--concurrency": "how many jobs run at once is said for each queue: --queues default:20",
    "-c": "how many jobs run at once is said for each queue: --queues default:20",
    "-q": "queues and how many jobs each runs at once: --queues default:20,mailers:5",
    "-A": "modules with workers are named with --import myapp.jobs",
    "--threads": "there are as many threads as jobs run at once, --queues default:20",
    "--module": "modules with workers are named with --import myapp.jobs",
    "--app": "modules with workers are named with --import myapp.jobs, a sessionmaker with --sessions myapp.db:Session",
    "--engine": "the database is named with --database-url, a sessionmaker with --sessions myapp.db:Session",
    "--url": "the database is named with --database-url",
    "--timeout": "a timeout belongs to the worker, @job(timeout=...); what running jobs get at shutdown is --grace",
}
"""What other queues call it, and how it is written here."""


class Grouped(click.Command):
    """A command that shows its flags under headings, and answers those of other queues with its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_extra_args = True  # they are refused below, in words of our own

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; raises `UsageError` for those that mean nothing here, with what does."""
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            words = ELSEWHERE.get(error.option_name)
            if words is None:
                raise
            raise click.UsageError(f"there is no {error.option_name}: {words}", ctx) from None
        if ctx.args and not ctx.resilient_parsing:
            first = ctx.args[0]
            how = f"--import {first}" if _is_module(first) else "--import myapp.jobs"
            raise click.UsageError(f"{first!r} belongs to no flag; a module with workers is named with {how}", ctx)
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags, each below the heading that it belongs to."""
        records = {each.name: each.get_help_record(ctx) for each in self.get_params(ctx)}
        for heading, names in GROUPS.items():
            with formatter.section(heading):
                formatter.write_dl([record for name in names if (record := records.pop(name, None))])
        with formatter.section("This command"):
            formatter.write_dl([record for record in records.values() if record])


def _is_module(text: str) -> bool:
    return all(piece.isidentifier() for piece in text.split("."))
