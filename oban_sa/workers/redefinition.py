"""Whether a worker that has the name of an earlier one stands for it, as when its module is reloaded, or hides it."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any, Final, TypeAlias
from weakref import ReferenceType, ref

from oban_sa.describe import caller

Execution: TypeAlias = tuple[str, ReferenceType[CodeType]]
"""One run of a module, known by its name and its code: whenever it is loaded again, that is another object."""

_PLAIN: Final = (int, float, complex, str, bytes, bool, type(None), type(...))
_NOT_COMPARED: Final = frozenset(
    {
        *("__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__annotations__", "__annotate__"),
        *("__annotate_func__", "__annotations_cache__", "__firstlineno__", "__static_attributes__", "__orig_bases__"),
        *("__parameters__", "__oban_definition__", "new", "enqueue"),
    }
)
"""What a class has that says nothing of what it does, or differs whenever it is made."""

_DEEPEST: Final = 10


def execution() -> Execution | None:
    """Return the run of a module that defines something just now: the innermost that this is called from."""
    frame: FrameType | None = caller.frame()
    while frame is not None and frame.f_code.co_name != "<module>":
        frame = frame.f_back
    return None if frame is None else (frame.f_globals.get("__name__", ""), ref(frame.f_code))


def is_again(earlier: object, later: object, then: Execution | None, now: Execution | None) -> bool:
    """Whether `later` may take the place of `earlier`: the module that asks for it runs again, or it does the same."""
    if earlier is later or earlier.__module__ != later.__module__:  # such as a program that also imports itself
        return True
    runs_again = then is not None and now is not None and then[0] == now[0] and then[1] != now[1]
    return runs_again or _same(earlier, later, _DEEPEST)


def hint(target: type | Callable[..., object]) -> str:
    """Say how what was defined a second time gets a name of its own."""
    decorator = "@worker" if isinstance(target, type) else "@job"
    outer, local, name = target.__qualname__.rpartition(".<locals>.")
    if not local:
        return f'give one of them another: {decorator}(name="...")'
    if any(isinstance(cell, FunctionType) for cell in _cells(target).values()):
        return f"{outer} seems to be a decorator; write @functools.wraps(function) above {name} in it"
    return (
        f"{outer} makes one whenever it is called, and each needs a name of its own, the same in every process: "
        f'{decorator}(name=f"..."); in tests {decorator}(registry=Registry())'
    )


def place(target: object) -> str:
    """Return where a class or function stands, as far as it tells."""
    code = getattr(target, "__code__", None) or getattr(getattr(target, "process", None), "__code__", None)
    return "" if code is None else f", at {code.co_filename}:{code.co_firstlineno}"


def _same(one: Any, other: Any, depth: int) -> bool:
    if one is other:
        return True
    if type(one) is not type(other) or depth == 0:
        return False
    if isinstance(one, FunctionType):
        cells, others = _cells(one), _cells(other)
        return (
            one.__code__ == other.__code__
            and one.__globals__ is other.__globals__
            and cells.keys() == others.keys()
            and all(
                # The class that a method with super() belongs to is what is being compared.
                name == "__class__" or _same(cell, others[name], depth - 1)
                for name, cell in cells.items()
            )
            and _same(one.__defaults__, other.__defaults__, depth - 1)
            and _same(_Items(one.__kwdefaults__ or {}), _Items(other.__kwdefaults__ or {}), depth - 1)
        )
    if isinstance(one, (staticmethod, classmethod)):
        return _same(one.__func__, other.__func__, depth - 1)
    if isinstance(one, type):
        mine, others = _own(one), _own(other)
        return one.__bases__ == other.__bases__ and _same(mine, others, depth - 1)
    if isinstance(one, _Items):
        return one.keys() == other.keys() and all(_same(one[key], other[key], depth - 1) for key in one)
    if type(one) is tuple:
        return _same_each(one, other, depth)
    # Of what else may change, two that are alike now are two all the same.
    return isinstance(one, _PLAIN) and bool(one == other)


def _same_each(one: Any, other: Any, depth: int) -> bool:
    return len(one) == len(other) and all(_same(one[place], other[place], depth - 1) for place in range(len(one)))


class _Items(dict[str, object]):
    """What belongs to a function or a class, and is compared by what is in it."""


def _own(cls: type) -> _Items:
    return _Items({name: value for name, value in vars(cls).items() if name not in _NOT_COMPARED})


def _cells(function: object) -> dict[str, object]:
    code: CodeType | None = getattr(function, "__code__", None)
    found: dict[str, object] = {}
    for name, cell in zip(code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # what is defined later
            found[name] = None
    return found
