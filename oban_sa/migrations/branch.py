"""Our versions as a branch beside a project's own revisions: what keeps them apart, and the database they are for."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from alembic.operations.ops import MigrationScript
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError

FOLDER: Final = Path(__file__).parent / "versions"
"""The folder of our versions; no other revisions belong here."""


def own_revisions(context: Any, revision: Any, directives: Iterable[Any]) -> None:
    """Put a new revision behind the project's own, in the project's own folder, and never behind or beside ours.

    For projects that list `oban_sa:migrations/versions` among their `version_locations`: give it to
    `context.configure(process_revision_directives=own_revisions)` and write `revision_environment = true`. Then
    `alembic revision` needs no `--head` and no `--version-path`. What a command line names is left as it is; with
    several heads of the project's own Alembic asks for one, as ever.
    """
    script = context.environment_context.script
    own = [head for head in script.get_revisions("heads") if not _ours(Path(head.path).parent)]
    folders = [Path(each) for each in script._version_locations if not _ours(Path(each))]
    for directive in directives:
        if not isinstance(directive, MigrationScript) or directive.head not in (None, "head"):
            continue
        if len(own) == 1:
            directive.head = own[0].revision
        elif not own:
            directive.head = "base"
            if directive.version_path is None and folders:
                directive.version_path = str(folders[0])


def refuse_others() -> None:
    """Raise CommandError where a revision of the project's own lies among our versions.

    Alembic writes a new revision beside the one it follows. Where the project has none of its own, that is ours.
    """
    from oban_sa.migrations.history import VERSIONS

    known = {"__init__.py", *(f"{version.__name__.rpartition('.')[2]}.py" for version in VERSIONS)}
    others = sorted(file.name for file in FOLDER.glob("*.py") if file.name not in known)
    if others:
        raise CommandError(
            f"{', '.join(others)} in {FOLDER} is a revision of your own that Alembic wrote beside oban_sa's; "
            "move it to your own versions and write down_revision = None in it, and depends_on = 'oban' where it needs "
            "the job tables. process_revision_directives=oban_sa.migrations.own_revisions in your env.py keeps new "
            "ones out"
        )


_generate_revision = ScriptDirectory.generate_revision


@functools.wraps(_generate_revision)
def _generate_outside(directory: ScriptDirectory, *given: Any, **options: Any) -> Script | None:
    script = _generate_revision(directory, *given, **options)
    if script is not None and _ours(Path(script.path).parent):
        Path(script.path).unlink()
        raise CommandError(
            f"Alembic would write this revision into {FOLDER}, where oban_sa's own are. Give "
            "process_revision_directives=oban_sa.migrations.own_revisions to context.configure() in your env.py and "
            "write revision_environment = true in alembic.ini; or choose the folder this time: "
            "alembic revision --head base --version-path <the folder of your versions>"
        )
    return script


def refuse_new() -> None:
    """Make Alembic refuse to write a revision among our versions, as it does where a project has none of its own yet.

    Alembic asks no hook where a revision goes unless the project's env.py has one. So its `generate_revision` is
    wrapped, once the project turns out to use our versions.
    """
    ScriptDirectory.generate_revision = _generate_outside  # type: ignore[method-assign, assignment]


def chosen(config: Any, engine_name: str | None) -> bool:
    """Return whether the tables belong into the database that Alembic's template `multidb` calls `engine_name`.

    The option `oban_engine` of alembic.ini (or `-x oban_engine=...`) names theirs; raises CommandError where it is
    missing. None is the only database of a project.
    """
    if engine_name is None:
        return True
    named = option(config, "oban_engine")
    if named is None:
        raise CommandError(
            "this project has several databases; name the one for the job tables in alembic.ini, below [alembic]: "
            f"oban_engine = {engine_name}"
        )
    return named == engine_name


def option(config: Any, name: str) -> str | None:
    """Return an option of an Alembic configuration: from `-x name=...`, its attributes or its file, in this order."""
    given: dict[str, str] = {}
    for each in getattr(config.cmd_opts, "x", None) or ():
        key, _, value = each.partition("=")
        given[key] = value
    # Until Alembic 1.16 there was alembic.ini alone.
    in_file = getattr(config, "get_alembic_option", config.get_main_option)(name)
    found = given.get(name) or config.attributes.get(name) or in_file
    return None if found is None else str(found)


def _ours(folder: Path) -> bool:
    return folder.resolve() == FOLDER.resolve()
