"""An environment for each contender, so that nobody's packages get in another's way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = Path(".oban") / "benchmarks" / "peers"
PYTHON = "OBAN_BENCH_PYTHON"


@dataclass(frozen=True)
class Contender:
    """Who takes turns: the module that plays them, what is to be installed for it, and the Python it needs."""

    name: str
    module: str
    requires: tuple[str, ...] = ()
    python: tuple[int, int] = (3, 11)

    @property
    def ours(self) -> bool:
        """Whether it plays in the environment that the benchmarks run in."""
        return not self.requires


FLOOR = Contender("floor", "benchmarks.bare")
OURS = Contender("oban_sa", "benchmarks.ours")
PSYCOPG = "psycopg[binary,pool]"
PEERS_KNOWN = (
    Contender("oban", "benchmarks.peers.oban", ("oban~=0.7.0", PSYCOPG, "uvloop"), (3, 12)),
    Contender("pgqueuer", "benchmarks.peers.pgqueuer", ("pgqueuer~=1.6", "asyncpg", "uvloop")),
    Contender("procrastinate", "benchmarks.peers.procrastinate", ("procrastinate~=3.10", PSYCOPG, "uvloop")),
    Contender("chancy", "benchmarks.peers.chancy", ("chancy~=0.26.0", PSYCOPG, "uvloop")),
    Contender("dbos", "benchmarks.peers.dbos", ("dbos~=3.4", "uvloop")),
)


class LeftOut(Exception):
    """Why a contender does not take part."""


def python_of(contender: Contender) -> str:
    """The Python that plays a contender's turns; makes its environment where there is none. Raises `LeftOut`."""
    if contender.ours:
        return sys.executable
    folder = (PEERS / contender.name).absolute()
    made = folder / "bin" / "python"
    wanted = " ".join(contender.requires)
    note = folder / "installed"
    if made.exists() and note.exists() and note.read_text(encoding="utf-8") == wanted:
        return str(made)
    base = _python(contender.python)
    print(f"making an environment for {contender.name} in {folder}", file=sys.stderr, flush=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    _run([base, "-m", "venv", "--clear", str(folder)])
    _run([str(made), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *contender.requires])
    note.write_text(wanted, encoding="utf-8")
    return str(made)


def _python(least: tuple[int, int]) -> str:
    """A Python that is new enough: the one named by OBAN_BENCH_PYTHON, else the newest that is found."""
    named = [given] if (given := os.environ.get(PYTHON)) else []
    for name in (*named, "python3.13", "python3.12", *_pyenv(), sys.executable, "python3"):
        path = shutil.which(name)
        if path is not None and _version(path) >= least:
            return path
    raise LeftOut(f"it needs Python {least[0]}.{least[1]} or newer; name one: {PYTHON}=/path/to/python")


def _pyenv() -> list[str]:
    root = Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions"
    return sorted((str(path) for path in root.glob("3.1[1-9].*/bin/python")), reverse=True) if root.is_dir() else []


def _version(python: str) -> tuple[int, int]:
    asked = subprocess.run([python, "--version"], capture_output=True, text=True, check=False, timeout=30)
    found = re.match(r"Python (\d+)\.(\d+)", asked.stdout)
    # A name that pyenv knows but does not give answers with an error.
    return (int(found[1]), int(found[2])) if found and asked.returncode == 0 else (0, 0)


def _run(command: list[str]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    if ran.returncode:
        last = (ran.stderr or ran.stdout).strip().splitlines()[-1:] or ["no reason given"]
        raise LeftOut(f"it could not be installed: {last[0]}")
