"""Commands, flags, variables and files that pages name, found in their text."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator

import click
import yaml

from oban_sa.cli import group
from oban_sa.cli.dashboard import command as dashboard
from oban_sa.service.command import command as runner
from tests.public import pages

_INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_SHELL = {"sh", "console", "ini"}
_END = {"|", "&&", ";", "||", ">", "&"}
_MODULES = {("-m", "oban_sa"): group, ("-m", "oban_sa.runner"): runner}


def written(page: str) -> Iterator[list[str]]:
    """Return every command of ours on a page, in words: those in blocks, manifests and sentences."""
    for line in _lines(page):
        words = _words(line)
        starts = [at for at in range(len(words)) if _start(words[at:]) is not None]
        for start, end in zip(starts, [*starts[1:], len(words)], strict=False):
            command = words[start:end]
            stop = next((at for at, word in enumerate(command) if word in _END), len(command))
            yield [command[0].rpartition("/")[2], *command[1:stop]]


def manifests(page: str) -> Iterator[object]:
    """Return every document in the YAML of a page."""
    for block in pages.blocks(page):
        if block.language == "yaml":
            yield from yaml.safe_load_all(block.text)


def flags(page: str) -> set[str]:
    """Return every flag that a sentence of a page names by itself."""
    return {re.split(r"[ =:]", spoken)[0] for spoken in _spoken(page) if spoken.startswith("--")}


def variables(page: str) -> set[str]:
    return set(re.findall(r"\bOBAN_[A-Z_]+\b", pages.read(page)))


def refuse(command: list[str]) -> None:
    """Raise click's UsageError where a command of ours, or one of its flags, does not exist."""
    found = _start(command)
    assert found is not None, command
    length, owner = found
    rest = command[length:]
    context = context_of(owner)
    while isinstance(owner, click.Group) and rest and not rest[0].startswith("-"):
        inner = owner.get_command(context, rest[0])
        if inner is None:
            raise click.UsageError(f"there is no {' '.join(command)}")
        owner, rest, context = inner, rest[1:], context_of(inner, context)
    values, _, _ = owner.make_parser(context).parse_args(rest)
    for option in owner.params:
        if option.name in values and isinstance(option.type, click.Choice):
            option.type_cast_value(context, values[option.name])


def context_of(command: click.Command, parent: click.Context | None = None) -> click.Context:
    """Return the context a command runs in. A bare one would leave `--help` without `-h` behind, which click keeps."""
    return click.Context(command, parent, **command.context_settings)


def known_flags() -> set[str]:
    """Return the flags of all commands."""

    def below(command: click.Command) -> Iterator[str]:
        for parameter in command.params:
            yield from (*parameter.opts, *parameter.secondary_opts)
        if isinstance(command, click.Group):
            context = context_of(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                yield from below(inner)

    return {*below(group), *below(runner), "--help"}


def known_variables() -> set[str]:
    """Return the environment variables that the help of the runner and of the dashboard names."""
    params = [*runner.params, *dashboard.params]
    return {name for each in params for name in re.findall(r"OBAN_[A-Z_]+", getattr(each, "help", None) or "")}


def _start(words: list[str]) -> tuple[int, click.Command] | None:
    """Return the command of ours that some words begin with, and how many words name it."""
    if words[:1] == ["oban-sa"]:
        return 1, group
    python, *module = words[:3]
    owner = _MODULES.get(tuple(module)) if python.rpartition("/")[2] == "python" else None
    return None if owner is None else (3, owner)


def _lines(page: str) -> Iterator[str]:
    for block in pages.blocks(page):
        if block.language in _SHELL:
            yield from re.sub(r"\\\n\s*", " ", block.text).splitlines()
        elif block.language == "dockerfile":
            yield from (shlex.join(json.loads(each)) for each in re.findall(r"CMD (\[.*\])", block.text))
    for manifest in manifests(page):
        yield from (shlex.join(command) for command in _values(manifest, "command"))
    yield from _spoken(page)


def _spoken(page: str) -> list[str]:
    prose = re.sub(r"^```.*?^```$", "", pages.read(page), flags=re.MULTILINE | re.DOTALL)
    # A span of code may go on in the next line.
    return _INLINE.findall(re.sub(r"(?<=\S)\n(?=\S)(?![-#|>*])", " ", prose))


def _values(manifest: object, key: str) -> Iterator[list[str]]:
    if isinstance(manifest, dict):
        for name, value in manifest.items():
            if name == key:
                yield value
            else:
                yield from _values(value, key)
    elif isinstance(manifest, list):
        for each in manifest:
            yield from _values(each, key)


def _words(line: str) -> list[str]:
    line = line.removeprefix("ExecStart=").removeprefix("$ ").replace("...", "")
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:  # a sentence's apostrophe; no command
        return []
