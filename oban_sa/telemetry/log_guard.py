"""Keeps the command's log working when a module that it imports configures logging."""

from __future__ import annotations

import logging
from typing import Final

logger = logging.getLogger("oban_sa.runner")

LIBRARY: Final = "oban_sa"


class Voice:
    """The handler that the records of oban_sa go to, and the way to lead them there again.

    A module that calls `dictConfig` or `fileConfig` switches off every logger that exists already, unless it says
    otherwise, and often has handlers of its own for the root logger; so does `basicConfig(force=True)`. Where code of
    jobs logs to is its own business. What the runner says still comes to where it was told to say it.
    """

    def __init__(self, handler: logging.Handler, *, quiet: bool = False) -> None:
        """Make it the only handler of the root logger; `quiet` keeps it from telling what it put right."""
        self.handler: Final = handler
        self._quiet = quiet
        self._told = False
        self._root = logging.getLogger()
        self._library = logging.getLogger(LIBRARY)
        self._root.handlers[:] = [handler]

    def drowned(self, speaker: logging.Logger) -> bool:
        """Whether a logger of ours reaches no handler any more, as far as a quick look tells."""
        return speaker.disabled or self._is_lost()

    def raise_again(self) -> None:
        """Switch on what was switched off, put the handler back where none took its place, and say so once."""
        silenced = [each for each in _loggers() if each.disabled]
        for each in silenced:
            each.disabled = False
        if lost := self._is_lost():
            # Not to the root logger: what the program's own code logs would be written twice.
            self._library.addHandler(self.handler)
            self._library.propagate = False
        if (silenced or lost) and not self._quiet and not self._told:
            self._told = True
            logger.warning(
                "a module of yours configured logging and thereby %s; that is undone for oban_sa%s",
                "switched off the runner's own loggers" if silenced else "took the runner's handler away",
                ". Write disable_existing_loggers=False, for it switched off others too" if silenced else "",
            )

    def end(self) -> None:
        """Take back what was done to the library's logger."""
        if self.handler in self._library.handlers:
            self._library.removeHandler(self.handler)
            self._library.propagate = True

    def _is_lost(self) -> bool:
        # Handlers that a program gave to oban_sa by name were meant for it.
        return self.handler not in self._root.handlers and not self._library.handlers


_voice: Voice | None = None


def install(handler: logging.Handler) -> None:
    """Make `handler` the one that the command writes to, in place of an earlier one."""
    global _voice
    uninstall()
    _voice = Voice(handler)
    _voice.raise_again()


def uninstall() -> None:
    """Leave logging to the program again; the root logger's handlers stay as they are."""
    global _voice
    if _voice is not None:
        _voice.end()
    _voice = None


def drowned(speaker: logging.Logger) -> bool:
    """Whether a logger of ours no longer reaches the handler of the command; False in a program of its own."""
    return _voice is not None and _voice.drowned(speaker)


def go_on() -> None:
    """Undo what a module that was just imported did to the log of the command; in a program of its own, nothing."""
    if _voice is not None:
        _voice.raise_again()


def _loggers() -> list[logging.Logger]:
    known = list(logging.Logger.manager.loggerDict.items())
    return [
        each
        for name, each in known
        if isinstance(each, logging.Logger) and (name == LIBRARY or name.startswith(f"{LIBRARY}."))
    ]
