"""The README and the pages that go on with its story: their blocks in order, and the tables made from the code.

python -m tests.public.readme         # writes the tables of commands and settings anew
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import click

from oban_sa.cli import group
from oban_sa.service.command import command as runner
from tests.public import pages
from tests.public.commands import context_of
from tests.support import ROOT

README = ROOT / "README.md"
TABLES = {"commands": ROOT / "docs" / "commands.md", "settings": ROOT / "docs" / "settings.md"}


def blocks() -> list[pages.Block]:
    """Return every fenced block of the story, in order."""
    return [block for page in pages.STORY for block in pages.blocks(page)]


def commands() -> str:
    """Return the table of commands, as the command line itself lists them."""
    context = context_of(group)
    rows: list[tuple[str, str]] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            inner = ((f"{name} {each}", command.commands[each]) for each in command.list_commands(context))
            rows.extend((path, each.get_short_help_str(200)) for path, each in inner)
        else:
            rows.append((name, command.get_short_help_str(200)))
    return _table(("command", "what it does"), [(f"`{name}`", says) for name, says in rows])


def settings() -> str:
    """Return the table of the runner's settings, as its help lists them."""
    return _table(("flag", "what it sets"), list(_settings()))


def _settings() -> Iterator[tuple[str, str]]:
    for option in runner.params:
        assert isinstance(option, click.Option)
        value = f" {option.metavar}" if option.metavar else ""
        says = re.sub(r"\[(OBAN_[A-Z_, ]+)\]", r"[`\1`]", option.help or "")
        yield f"`{', '.join(option.opts)}{value}`", says


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    lines = [head, ("---", "---"), *rows]
    return "\n".join(f"| {left} | {right} |" for left, right in lines)


def between(name: str) -> str:
    """Return what stands below the marker of this name, on its page."""
    found = re.search(rf"<!-- {name} -->\n(.*?)\n?<!-- end -->", TABLES[name].read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def write() -> None:
    """Write each table into its page."""
    for name, table in (("commands", commands()), ("settings", settings())):
        marked = f"<!-- {name} -->\n{table}\n<!-- end -->"
        text = TABLES[name].read_text(encoding="utf-8")
        text = re.sub(rf"<!-- {name} -->\n.*?<!-- end -->", lambda _, marked=marked: marked, text, flags=re.DOTALL)
        TABLES[name].write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write()
