"""The states of a queue's producer and of its row, and what leads from one to the next.

A producer:

    NEW ──begin──> WORKING ──quiesce──> DRAINING ──stop──> STOPPING ──end──> STOPPED
     └──────────────quiesce──────────────^

    NEW        it exists; its row may be written already, so that all rows of a node stand before its first job begins
    WORKING    it fetches, unless it is paused, and writes outcomes
    DRAINING   it fetches no more; running jobs go on, outcomes are written, its row is kept
    STOPPING   what still runs is given back, the last outcomes are written, the row is removed
    STOPPED    its connection is closed

Paused is no state but a setting, as the limit is: it may change in any state, and the row says it.

Its row, without which nothing is fetched:

    UNWRITTEN ──send──> SENT ──written──> STANDS ──gone──> LOST
                          │                │  ^──recounted───┤
                          └─────leave──────┴───────leave─────┴──> LEFT

    SENT       no answer was heard yet: the row may stand, and has to be removed at the end
    STANDS     the heartbeat keeps it young, and writes it again where it is gone
    LOST       it was gone, since others took this node for dead, and is written again; which of the running jobs they
               were given has to be asked
    LEFT       its removal was sent; nothing writes it any more
"""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """The state of a producer. Each method returns the state that follows, and raises RuntimeError where none does."""

    NEW = "new"
    WORKING = "working"
    DRAINING = "draining"
    STOPPING = "stopping"
    STOPPED = "stopped"

    def __init__(self, value: str) -> None:
        # Here and not in properties: a producer asks for both in each cycle.
        self.fetches = value in ("new", "working")
        """Whether jobs may be fetched."""
        self.cycles = value in ("working", "draining")
        """Whether its task goes on: it fetches, writes outcomes, and keeps its row."""

    def begin(self) -> State:
        """Its task begins."""
        return self._from(State.NEW, to=State.WORKING)

    def quiesce(self) -> State:
        """No more is fetched, from now on or still."""
        return State.DRAINING if self.fetches else self

    def stop(self) -> State:
        """The last outcomes are written; begun once more where it was cut short."""
        return self._from(State.DRAINING, State.STOPPING, to=State.STOPPING)

    def end(self) -> State:
        """Nothing is left to do."""
        return self._from(State.STOPPING, to=State.STOPPED)

    def _from(self, *states: State, to: State) -> State:
        if self not in states:
            raise RuntimeError(f"a producer that is {self.value} does not become {to.value}")
        return to


class Row(Enum):
    """The state of a producer's row. Methods are as those of `State`."""

    UNWRITTEN = "unwritten"
    SENT = "sent"
    STANDS = "there"
    LOST = "lost"
    LEFT = "removed"

    @property
    def kept(self) -> bool:
        """Whether the heartbeat keeps the row young, and writes it again where it is gone."""
        return self in (Row.STANDS, Row.LOST)

    @property
    def perhaps_there(self) -> bool:
        """Whether the row has to be removed at the end."""
        return self is not Row.UNWRITTEN

    def send(self) -> Row:
        """The row is about to be written, for the first time or once more."""
        self._refuse(Row.LEFT, "is not written again")
        return Row.SENT if self is Row.UNWRITTEN else self

    def written(self, *, fresh: bool) -> Row:
        """The row was written; it was `fresh` where there had been none."""
        self._refuse(Row.UNWRITTEN, "was not sent")
        self._refuse(Row.LEFT, "is not written again")
        if self is Row.SENT:
            return Row.STANDS
        return Row.LOST if fresh else self

    def gone(self) -> Row:
        """The row had been removed by others."""
        return Row.LOST if self.kept else self

    def recounted(self) -> Row:
        """The jobs that others were given meanwhile are known."""
        if self is not Row.LOST:
            raise RuntimeError(f"a row that is {self.value} was not lost")
        return Row.STANDS

    def leave(self) -> Row:
        """The row is about to be removed, or is still."""
        self._refuse(Row.UNWRITTEN, "is not there to be removed")
        return Row.LEFT

    def _refuse(self, state: Row, why: str) -> None:
        if self is state:
            raise RuntimeError(f"a row that is {self.value} {why}")
