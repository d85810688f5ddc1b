"""Whether each mutant still replaces something that exists, by something that is called in the same way.

`python -m tests.acceptance.chaos.applies` prints what does not fit, one line each. A mutant that sets a name which the
package no longer has takes no protection out, and one that fails when it is called breaks other promises than its own.
"""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
import sys
from collections.abc import Iterator
from typing import Any

import oban_sa
from tests.acceptance.chaos.mutants import mutants


def _names() -> dict[tuple[str, str], Any]:
    """Return every attribute of the package's modules and classes, by its owner and name."""
    found: dict[tuple[str, str], Any] = {}
    for name, module in list(sys.modules.items()):
        if not name.startswith("oban_sa"):
            continue
        for key, value in vars(module).items():
            found[name, key] = value
            if inspect.isclass(value) and value.__module__.startswith("oban_sa"):
                found |= {(f"{value.__module__}.{value.__qualname__}", each): it for each, it in vars(value).items()}
    return found


def _misfits(before: dict[tuple[str, str], Any], after: dict[tuple[str, str], Any]) -> Iterator[str]:
    changed = [key for key, value in after.items() if key not in before or before[key] is not value]
    changed = [key for key in changed if f"{key[0]}.{key[1]}" not in sys.modules and not key[1].startswith("__")]
    if not changed:
        yield "replaces nothing"
    for key in changed:
        if key not in before and not _is_assigned(*key):
            yield f"sets {'.'.join(key)}, which does not exist"
        elif inspect.isfunction(before.get(key)) and inspect.isfunction(after[key]):
            wanted, given = inspect.signature(before[key]), inspect.signature(after[key])
            if not _takes(given, wanted):
                yield f"{'.'.join(key)} takes {given}, and is called as {wanted}"


def _is_assigned(owner: str, name: str) -> bool:
    """Whether instances of a class get this attribute, which a property of the class then stands for."""
    module, _, of = owner.rpartition(".")
    made = getattr(sys.modules.get(module), of, None)
    return inspect.isclass(made) and f"self.{name}" in inspect.getsource(made)


def _takes(given: inspect.Signature, wanted: inspect.Signature) -> bool:
    """Whether calls of `wanted`, with all of its parameters, are calls of `given` too."""
    kinds = inspect.Parameter
    places = [
        None for each in wanted.parameters.values() if each.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    ]
    named = {each.name: None for each in wanted.parameters.values() if each.kind is kinds.KEYWORD_ONLY}
    try:
        given.bind(*places, **named)
    except TypeError:
        return False
    return True


def main() -> None:
    """Import each mutant in a process of its own, and say which of them do not fit."""
    for module in pkgutil.walk_packages(oban_sa.__path__, "oban_sa."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    before, misfits = _names(), 0
    for mutant in mutants():
        child = os.fork()
        if child == 0:
            importlib.import_module(f"tests.acceptance.chaos.mutants.{mutant.name}")
            told = [f"{mutant.name}: {misfit}" for misfit in _misfits(before, _names())]
            print(*told, sep="\n", end="\n" if told else "", flush=True)
            os._exit(bool(told))
        misfits += os.waitpid(child, 0)[1] != 0
    sys.exit(misfits)


if __name__ == "__main__":
    main()
