"""The name under which a class or function is registered unless it is given another."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType


def origin_of(target: type | Callable[..., object]) -> str:
    """Return `module.QualName` of a class or function, the name under which it is registered.

    What is defined in the program itself is named as if it had been imported: by what `python -m` was given, else by
    the file and the packages that it stands in. So `python myapp.py` writes jobs that `--import myapp` finds.
    """
    module = target.__module__
    if module in ("__main__", "__mp_main__"):
        module = _name_of_program(sys.modules[module]) or module
    return f"{module}.{target.__qualname__}"


def _name_of_program(module: ModuleType) -> str | None:
    spec = getattr(module, "__spec__", None)
    if spec is not None:
        return str(spec.name)
    file = getattr(module, "__file__", None)
    if file is None:  # typed at a prompt or given with -c: no other program can import it
        return None
    folder, name = os.path.split(os.path.abspath(file))
    parts = [os.path.splitext(name)[0]]
    while os.path.exists(os.path.join(folder, "__init__.py")):
        folder, package = os.path.split(folder)
        parts.insert(0, package)
    return ".".join(parts)
