"""Our versions as a branch beside a project's own revisions: which revisions are whose, and which database is meant."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from alembic.operations.ops import MigrationScript
from alembic.util import CommandError

FOLDER: Final = Path(__file__).parent / "versions"
"""Where our versions are; nobody else's belong here."""


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
    """Raise CommandError where a revision of somebody else's lies among our versions.

    Alembic writes a new revision beside the one it follows. Where the project had none of its own, that was ours.
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


def chosen(config: Any, engine_name: str | None) -> bool:
    """Return whether the tables belong into the database that Alembic's template `multidb` calls `engine_name`.

    The option `oban_engine` of alembic.ini (or `-x oban_engine=...`) names it; raises CommandError where it is not
    there. Without `engine_name` there is but one database.
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
    """Return what `-x name=...`, the attributes or the file of an Alembic configuration say, in this order."""
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
