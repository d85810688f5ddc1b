"""Import the modules that define workers; the settings name them, and a job's row never does."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from oban_sa.errors import InvalidOption, RunnerError, nearest
from oban_sa.service.early_signals import Interrupted
from oban_sa.service.signals import Stopped, came
from oban_sa.telemetry import log_guard


def load(modules: Iterable[str], *, origin: str = "--import") -> None:
    """Import these modules, those in the current folder included.

    `origin` is the source of the names, for messages. Raises InvalidOption for a module that does not exist, and
    RunnerError for one that exists but can't be imported.
    """
    here = str(Path.cwd())
    # A console script, unlike `python -m`, does not look where it was started.
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(f"{error.name}.")):
                raise InvalidOption(f"{origin}: {_missing(module, error.name, here)}") from error
            raise RunnerError(f"{origin}: {_failed(module, error)}") from error
        except (Stopped, Interrupted):
            raise
        except (Exception, SystemExit) as error:
            raise RunnerError(f"{origin}: {_failed(module, error)}") from error
        finally:
            log_guard.go_on()
        if came():
            raise Stopped(0)  # the module has caught it


def attribute(name: str, *, origin: str) -> Any:
    """Import what `module:name` names; raises what `load` raises, and InvalidOption where the module has no such name.

    A name may be a path: `myapp.tracing:Tracer.trace`.
    """
    module, colon, path = name.partition(":")
    if not colon or not module or not path:
        raise InvalidOption(f"{origin}: {name!r} is not a module and a name in it; write for example myapp.obs:trace")
    load([module], origin=origin)
    found: Any = sys.modules[module]
    for step in path.split("."):
        if not hasattr(found, step):
            raise InvalidOption(f"{origin}: there is no {step!r} in {module!r}{nearest(step, dir(found))}")
        found = getattr(found, step)
    return found


def _missing(module: str, missing: str, here: str) -> str:
    parent, _, last = missing.rpartition(".")
    if parent and parent in sys.modules:
        paths = getattr(sys.modules[parent], "__path__", None)
        if paths is None and last == "py":
            return f"{missing!r} is the name of a file; write its module, {parent}"
        if paths is None:
            return f"there is no module {missing!r}, because {parent!r} is a module and not a package"
        siblings = [f"{parent}.{found.name}" for found in pkgutil.iter_modules(paths)]
        return f"there is no module {last!r} in the package {parent!r}{nearest(missing, siblings)}"
    top = [found.name for found in pkgutil.iter_modules([here])]
    return (
        f"there is no module {module!r}{nearest(missing, top)}\n"
        f"It was looked for in {here} and among the installed packages; start the runner in the folder that holds "
        f"{missing.partition('.')[0]!r}, or install it."
    )


def _failed(module: str, error: BaseException) -> str:
    kind = "".join(traceback.format_exception_only(error)).strip().splitlines()
    # format_exception_only puts a SyntaxError's file and line first and its message last.
    where = f"\n  {_place(error.__traceback__)}" if not isinstance(error, SyntaxError) else f"\n  {kind[0].strip()}"
    return f"the module {module!r} exists but could not be imported: {kind[-1]}{where}"


def _place(trace: TracebackType | None) -> str:
    frames = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith("<frozen")]
    ours = [frame for frame in frames if frame.filename not in (__file__, importlib.__file__)]
    if not ours:
        return ""
    return f'File "{ours[-1].filename}", line {ours[-1].lineno}: {ours[-1].line}'
