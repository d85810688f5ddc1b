"""Which names mean which code; a job's row holds the name."""

from __future__ import annotations

import difflib
import importlib
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from oban_sa.describe import exceptions
from oban_sa.errors import InvalidOption, WorkerNotFound
from oban_sa.workers import redefinition
from oban_sa.workers.definition import ATTRIBUTE, Definition


class Registry:
    """Definitions by the names that rows hold: their own and their aliases."""

    def __init__(self) -> None:
        self._definitions: dict[str, Definition] = {}
        self.known: Final[Mapping[str, Definition]] = self._definitions
        """What is registered by now, by name: for who asks for each job, and calls `find` only in vain."""
        self._executions: dict[str, redefinition.Execution | None] = {}
        self._lock = threading.Lock()

    def register(self, definition: Definition) -> Definition:
        """Add `definition` under its name and aliases, and return it.

        One that comes from the same place replaces its predecessor when its module is reloaded, or does the same.
        Raises `InvalidOption`, and registers nothing, where another definition has one of the names.
        """
        names = (definition.name, *definition.aliases)
        now = redefinition.execution()
        with self._lock:
            for name in names:
                other = self._definitions.get(name)
                if other is not None and other.origin != definition.origin:
                    raise InvalidOption(
                        f"the name {name!r} of {definition.origin} already means {other.origin}; "
                        f'give one of them another: name="..."'
                    )
                if other is not None and not redefinition.is_again(
                    other.target, definition.target, self._executions.get(name), now
                ):
                    raise InvalidOption(
                        f"the name {name!r} already means another {definition.body.what}"
                        f"{redefinition.place(other.target)}, whose jobs would run this one's code; "
                        f"{redefinition.hint(definition.target)}"
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


def registry_of(given: object) -> Registry:
    """Return the registry that was given, the default one for None; raises `InvalidOption` for what is none."""
    if given is None:
        return registry
    if not isinstance(given, Registry):
        raise InvalidOption(f"registry is a Registry, not {exceptions.shown(given, 60)}")
    return given


def found_by_name(name: str, module: str, others: Iterable[str] = ()) -> Definition:
    """Return a worker in a process that may not know it yet, after importing `module`, where its code stands.

    It may be in a registry of its own: that is looked for in `module` and in `others`, which are imported already.
    Raises what the import raises, and `WorkerNotFound`.
    """
    if name in registry:
        return registry.find(name)
    importlib.import_module(module)
    if name not in registry:
        for known in (module, *others):
            for value in list(vars(sys.modules[known]).values()):
                if isinstance(value, Registry) and name in value:
                    return value.find(name)
                definition = getattr(value, "__dict__", {}).get(ATTRIBUTE)
                if isinstance(definition, Definition) and definition.name == name:
                    return definition
    return registry.find(name)


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
        raise WorkerNotFound(f"importing {module!r}, to find {of!r}, failed: {exceptions.describe(error)}") from error
    except Exception as error:
        raise WorkerNotFound(f"importing {module!r}, to find {of!r}, failed: {exceptions.describe(error)}") from error
    return True
