"""The flags of the runner's command, their help, and the answer to flags of other queues."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import click

from oban_sa.settings.option import Option, flag, variable


class Flag(click.Option):
    """A flag that is shown below a heading."""

    def __init__(self, *args: Any, heading: str, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading


def flags(options: Iterable[Option]) -> Iterator[Flag]:
    """Make the flags of settings, each followed by those of its synonyms."""
    for each in options:
        for word in each.words if each.stands_in("flag") else ():
            same = f"The same as {flag(each.key)}. [{variable(word)}]"
            # Left out and not None: click takes any flag_value, None too, for the value of a flag without one.
            bare: dict[str, str] = {} if each.kind.bare is None else {"flag_value": each.kind.bare}
            yield Flag(
                [flag(word), word],
                heading=each.heading,
                metavar=each.kind.metavar,
                multiple=each.kind.many,
                is_flag=each.kind.metavar is None,
                default=None,
                help=each.help if word == each.key else same,
                **bare,
            )


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
"""Flags of other job queues, and what to write here instead."""


class Grouped(click.Command):
    """A command that shows its flags under headings, and answers those of other queues with its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.allow_extra_args = True  # they are refused below, in words of our own

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; raises `UsageError` for unknown ones, with what to write instead."""
        try:
            rest = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            words = ELSEWHERE.get(error.option_name)
            if words is None:
                raise
            raise click.UsageError(f"there is no {error.option_name}: {words}", ctx) from None
        if ctx.args and not ctx.resilient_parsing:
            first = ctx.args[0]
            module = first if all(piece.isidentifier() for piece in first.split(".")) else "myapp.jobs"
            raise click.UsageError(
                f"{first!r} belongs to no flag; a module with workers is named with --import {module}", ctx
            )
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the flags, each below its heading; those about the command itself come last."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for each in self.get_params(ctx):
            if record := each.get_help_record(ctx):
                sections.setdefault(each.heading if isinstance(each, Flag) else "This command", []).append(record)
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)
