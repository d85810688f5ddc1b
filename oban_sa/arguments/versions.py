"""Versions of a worker's arguments: a worker that was deployed today reads the rows of yesterday."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from oban_sa.describe import callables
from oban_sa.errors import InvalidArguments, InvalidOption
from oban_sa.jobs import values
from oban_sa.jobs.values import JSONDict
from oban_sa.models import Job

Upgrade: TypeAlias = Callable[[JSONDict, int], JSONDict]
"""Makes args of today out of those of an earlier version."""

KEY: Final = "args_version"
"""Where a job's meta says which version its args are of; where it says nothing, it is 1."""


class Versions:
    """Which version of args a worker reads, and how it reads those before it."""

    def __init__(self, number: int, upgrade: Upgrade | None, *, what: str) -> None:
        """Raise `InvalidOption` where one is given without the other, or the function can't be used."""
        if upgrade is None:
            if number > 1:
                of_function = f"and give it to the function: @job(version={number}, upgrade=upgrade)"
                where = of_function if what.endswith("()") else "into the class, as a @staticmethod"
                raise InvalidOption(
                    f"{what} has version={number} and nothing that reads the rows of version {number - 1}; "
                    f"write upgrade(args, version), which returns the args as they are now, {where}"
                )
        elif number == 1:
            raise InvalidOption(
                f"{what} has an upgrade, but version 1 is the first and has nothing to upgrade; write version=2"
            )
        elif callables.is_async(upgrade):
            raise InvalidOption(f"upgrade of {what} is async, but only makes a dict of another; write `def`")
        elif callables.yields(upgrade):
            raise InvalidOption(f"upgrade of {what} yields, but makes one dict of another; return it")
        elif not callables.takes(upgrade, 2):
            raise InvalidOption(f"upgrade of {what} takes the args and their version: `def upgrade(args, version)`")
        self.number: Final = number
        self._upgrade = upgrade

    def current(self, job: Job) -> JSONDict:
        """Return a job's args as the worker reads them today; those of the job itself stay what its row says.

        Raises `InvalidArguments` for args of a later version than the worker's, and what `upgrade` raises.
        """
        written = job.meta.get(KEY, 1) if job.meta else 1
        if written == self.number and written.__class__ is int:
            return job.args
        if written.__class__ is not int or written < 1:
            raise InvalidArguments(f"meta.{KEY} must be a whole number from 1, not {written!r}", path=f"meta.{KEY}")
        if written > self.number or self._upgrade is None:
            raise InvalidArguments(too_late(written, self.number))
        upgraded = self._upgrade(values.to_json(job.args), written)
        if upgraded.__class__ is not dict:
            raise InvalidArguments(f"upgrade(args, {written}) gave {upgraded!r:.60} instead of a dict")
        return upgraded


def later(meta: Mapping[str, object], number: int) -> int | None:
    """Return the version that a job's meta says its args are of, where it is later than `number`."""
    written = meta.get(KEY)
    return written if type(written) is int and written > number else None


def too_late(written: int, number: int) -> str:
    """Say that a worker can't read args of that version."""
    return (
        f"args are of version {written}, and this worker reads none later than {number}; "
        f"its program is older than the one that made the job"
    )


def method_of(cls: type, number: int) -> Upgrade | None:
    """Return the `upgrade` of a class; one that takes something else is none, unless there is a version to upgrade to.

    Raises `InvalidOption` for one that needs an instance.
    """
    method = getattr(cls, "upgrade", None)
    if method is None or not callable(method):
        return None
    if callables.takes(method, 2):
        return method  # type: ignore[no-any-return]
    if number == 1:
        return None
    raise InvalidOption(
        f"{cls.__qualname__}.upgrade takes the args and their version, and no instance: "
        f"`@staticmethod`, `def upgrade(args, version)`"
    )


def stamped(meta: Mapping[str, object] | None, number: int) -> JSONDict:
    """Return the meta of a new job whose args are of this version; the first is not written."""
    return {**(meta or {}), KEY: number} if number > 1 else dict(meta or {})
