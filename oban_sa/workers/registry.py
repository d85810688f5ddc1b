"""Which names mean which code; a job's row holds the name."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oban_sa import failures
from oban_sa.errors import InvalidOption, WorkerNotFound
from oban_sa.workers import redefining

if TYPE_CHECKING:
    from oban_sa.workers.definition import Definition


class Registry:
    """Definitions by the names that rows hold: their own and their aliases."""

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}
        self._executions: dict[str, redefining.Execution | None] = {}
        self._lock = threading.Lock()

    def register(self, definition: Definition) -> Definition:
        """Add `definition` under its name and aliases, and return it.

        One that comes from the same place replaces its predecessor when its module is reloaded, or does the same.
        Raises `InvalidOption`, and registers nothing, where another definition has one of the names.
        """
        names = (definition.name, *definition.aliases)
        now = redefining.execution()
        with self._lock:
            for name in names:
                other = self._definitions.get(name)
                if other is not None and other.origin != definition.origin:
                    raise InvalidOption(
                        f"the name {name!r} of {definition.origin} already means {other.origin}; "
                        f'give one of them another: name="..."'
                    )
                if other is not None and not redefining.is_again(
                    other.target, definition.target, self._executions.get(name), now
                ):
                    raise InvalidOption(
                        f"the name {name!r} already means another {definition.body.what}"
                        f"{redefining.place(other.target)}, whose jobs would run this one's code; "
                        f"{redefining.hint(definition.target)}"
                    )
            for name in names:
                self._definitions[name] = definition
                self._executions[name] = now
        return definition

    def find(self, name: str, allow: Sequence[str] = ()) -> Definition:
        """Return the definition registered as `name`, after importing its module if that is under `allow`.

        `allow` holds names of modules and packages: "myapp.jobs" allows `myapp.jobs` and `myapp.jobs.mail`, not
        `myapp.jobs_of_others`. Nothing else is ever imported. Raises `WorkerNotFound`, which lists similar names.
        """
        found = self._definitions.get(name)
        if found is not None:
            return found
        for module in _modules(name, allow):
            if module in sys.modules or _imported(module, of=name):
                found = self._definitions.get(name)
                if found is not None:
                    return found
        raise WorkerNotFound(self._advice(name))

    def __iter__(self) -> Iterator[Definition]:
        return iter(dict.fromkeys(self._definitions.values()))

    def __contains__(self, name: object) -> bool:
        return name in self._definitions

    def _advice(self, name: str) -> str:
        message = f"no worker is registered as {name!r}"
        if not self._definitions:
            return f"{message}; none is registered at all: import the modules that define them (--import myapp.jobs)"
        similar = self._similar(name)
        if similar:
            return f"{message}; similar: {', '.join(similar)}"
        return f"{message}; import the module that defines it (--import myapp.jobs)"

    def _similar(self, name: str) -> list[str]:
        last = name.rpartition(".")[2]
        moved = [known for known in self._definitions if known.rpartition(".")[2] == last]
        close = difflib.get_close_matches(name, self._definitions, n=3)
        return list(dict.fromkeys(moved[:3] + close))


registry = Registry()
"""The registry that `@worker` and `@job` add to, and runners look into, unless they are given another."""


def into(options: Mapping[str, Any]) -> Registry:
    """Return the registry that a worker's options name, or the default one."""
    named = options.get("registry", registry)
    if not isinstance(named, Registry):
        raise InvalidOption(f"registry is a Registry, not {named!r}")
    return named


def origin_of(target: Any) -> str:
    """Return `module.QualName` of a class or function, the name under which it is registered.

    What is defined in the program itself is named as if it had been imported: by what `python -m` was given, else by
    the file and the packages that it stands in. So `python myapp.py` writes jobs that `--import myapp` finds.
    """
    module = target.__module__
    if module in ("__main__", "__mp_main__"):
        module = _name_of_program(sys.modules[module]) or module
    return f"{module}.{target.__qualname__}"


def _name_of_program(module: Any) -> str | None:
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(module, "__file__", None)
    if file is None:  # typed at a prompt or given with -c: nobody else can import it
        return None
    folder, name = os.path.split(os.path.abspath(file))
    parts = [os.path.splitext(name)[0]]
    while os.path.exists(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    return ".".join(parts)


def _modules(name: str, allow: Sequence[str]) -> Iterator[str]:
    """Yield the modules that could define `name`, the most specific first, as far as `allow` lets them."""
    parts = name.split(".")
    for length in range(len(parts) - 1, 0, -1):
        path = parts[:length]
        # Importing the __main__ of a package would run it as a program.
        if path[-1] == "__main__" or not all(part.isidentifier() for part in path):
            continue
        module = ".".join(path)
        if any(module == prefix or module.startswith(f"{prefix}.") for prefix in allow):
            yield module


def _imported(module: str, *, of: str) -> bool:
    try:
        importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
            return False
        raise WorkerNotFound(f"importing {module!r}, to find {of!r}, failed: {failures.describe(error)}") from error
    except Exception as error:
        raise WorkerNotFound(f"importing {module!r}, to find {of!r}, failed: {failures.describe(error)}") from error
    return True
