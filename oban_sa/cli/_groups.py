"""A group of commands that suggests the nearest name for one that was mistyped."""

from __future__ import annotations

import click

from oban_sa.errors import nearest

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 120}


class Suggesting(click.Group):
    """A group that names the nearest command where there is none of the name that was typed."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that the arguments begin with; fails with the nearest name where there is none."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            names = self.list_commands(ctx)
            ctx.fail(f"there is no command {args[0]!r}{nearest(args[0], names)} (there are {', '.join(names)})")
        return super().resolve_command(ctx, args)
