"""Who may see and do what: decided by the application for each request, and checked on the server."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, fields
from typing import Final, Literal, TypeAlias, cast, get_args

from starlette.requests import Request

from oban_sa.errors import InvalidOption, nearest

Verb: TypeAlias = Literal["cancel", "retry", "delete", "update", "pause", "scale", "stop", "run_cron", "pause_cron"]

VERBS: Final[tuple[Verb, ...]] = get_args(Verb)

Right: TypeAlias = bool | Collection[str]
"""Whether something may be done; or the names of the queues in which it may."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What a visitor may see and do.

    Each right is True, False, or the names of the queues in which it holds. `queues` are the only queues that are shown
    at all, None for all of them. Without `see_args` neither args, meta nor recorded values are shown or searched,
    without `see_errors` no errors. `user` is who it is, for the page and for audit events. Resuming goes with `pause`
    and `pause_cron`, and retrying or cancelling a workflow or resuming a sequence with `retry` and `cancel` of every
    queue it may be in.
    """

    user: str | None = None
    view: bool = True
    cancel: Right = False
    retry: Right = False
    delete: Right = False
    update: Right = False
    pause: Right = False
    scale: Right = False
    stop: Right = False
    run_cron: Right = False
    pause_cron: Right = False
    see_args: bool = True
    see_errors: bool = True
    queues: frozenset[str] | None = None

    def __post_init__(self) -> None:
        for verb in VERBS:
            right: object = getattr(self, verb)
            if isinstance(right, (str, bytes)) or not isinstance(right, (bool, Collection)):
                raise InvalidOption(
                    f"Access({verb}=...) is True, False or a set of queues such as {{'mailers'}}, not {right!r}"
                )
        queues: object = self.queues
        if queues is not None:
            if isinstance(queues, (str, bytes)) or not isinstance(queues, Collection):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidOption(f"Access(queues=...) is a set of queues such as {{'mailers'}}, not {queues!r}")
            object.__setattr__(self, "queues", frozenset(queues))

    @classmethod
    def all(cls, user: str | None = None, **but: object) -> Access:
        """Return the right to see and do everything; `but` are fields that are set otherwise."""
        return cls._with(user, dict.fromkeys(VERBS, True), but)

    @classmethod
    def read_only(cls, user: str | None = None, **but: object) -> Access:
        """Return the right to see everything and do nothing; `but` are fields that are set otherwise."""
        return cls._with(user, {}, but)

    @classmethod
    def none(cls, user: str | None = None) -> Access:
        """Return no right at all, not even to look."""
        return cls(user=user, view=False)

    @classmethod
    def _with(cls, user: str | None, rights: dict[Verb, bool], but: dict[str, object]) -> Access:
        known = [each.name for each in fields(cls)]
        for name in but:
            if name not in known:
                raise InvalidOption(f"Access has no field {name!r}{nearest(name, known)}")
        made = cls(user=user)
        given: dict[str, object] = dict(but)
        for verb, right in rights.items():
            given.setdefault(verb, right)
        for name, value in given.items():
            object.__setattr__(made, name, value)
        made.__post_init__()
        return made

    def sees(self, queue: str) -> bool:
        """Return whether a queue is shown."""
        return self.queues is None or queue in self.queues

    def may(self, verb: Verb, queue: str | None = None) -> bool:
        """Return whether something may be done in a queue; without one, in any queue at all."""
        right = cast("Right", getattr(self, verb))
        if not self.view:
            return False
        if isinstance(right, bool):
            return right and (queue is None or self.sees(queue))
        return bool(right) if queue is None else queue in right and self.sees(queue)

    def everywhere(self, verb: Verb) -> bool:
        """Return whether something may be done in every queue there is or will be."""
        return self.view and self.queues is None and getattr(self, verb) is True

    def within(self, verb: Verb) -> frozenset[str] | None:
        """Return the queues in which something may be done, None for all."""
        right = cast("Right", getattr(self, verb))
        if right is False or not self.view:
            return frozenset()
        if right is True:
            return self.queues
        named = frozenset(right)
        return named if self.queues is None else named & self.queues


Rights: TypeAlias = Callable[[Request], Access | Awaitable[Access]]
"""Says what the visitor who sent a request may do."""


async def ask(rights: Rights, request: Request) -> Access:
    """Return what a visitor may do; raises `TypeError` where the application's function answers with anything else."""
    answer: object = rights(request)
    if inspect.isawaitable(answer):
        answer = await cast("Awaitable[object]", answer)
    if not isinstance(answer, Access):
        raise TypeError(f"access= answered {answer!r}; write Access.all(), .read_only() or Access(...)")
    return answer


def read_only(request: Request) -> Access:
    """Let everybody look and nobody act: what holds where the application says nothing."""
    return Access.read_only()
