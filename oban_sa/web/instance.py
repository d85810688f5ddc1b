"""One `Oban` as the dashboard sees it: a way to read, a way to change, and what the application has decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from oban_sa.client import Oban
from oban_sa.client.read import reader
from oban_sa.web.access import Rights
from oban_sa.web.redact import Redact

if TYPE_CHECKING:
    from oban_sa.web.live import Live
    from oban_sa.web.suggestions import Suggestions


@dataclass(frozen=True, slots=True)
class Instance:
    """An `Oban` under its name; `reader` can't change anything. `names` are those of all instances, its own included.

    A dashboard of one instance gives it no name, and its links no part for it.
    """

    name: str
    names: tuple[str, ...]
    oban: Oban
    reader: Oban
    rights: Rights
    redact: Redact
    live: Live
    suggestions: Suggestions

    @classmethod
    def of(cls, name: str, names: tuple[str, ...], oban: Oban, rights: Rights, redact: Redact) -> Instance:
        """Make an instance of an `Oban`, on the same pool."""
        from oban_sa.web.live import Live
        from oban_sa.web.suggestions import Suggestions

        reading = reader(oban)
        return cls(name, names, oban, reading, rights, redact, Live(reading), Suggestions(reading))
