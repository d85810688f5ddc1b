"""The states of a producer and of its row, as they are drawn in `oban_sa.runner.queue.states`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from oban_sa.runner.queue.states import Row, State

PRODUCER: dict[str, tuple[Callable[[State], State], dict[State, State]]] = {
    "begin": (State.begin, {State.NEW: State.WORKING}),
    "quiesce": (
        State.quiesce,
        {
            State.NEW: State.DRAINING,
            State.WORKING: State.DRAINING,
            State.DRAINING: State.DRAINING,
            State.STOPPING: State.STOPPING,
            State.STOPPED: State.STOPPED,
        },
    ),
    "stop": (State.stop, {State.DRAINING: State.STOPPING, State.STOPPING: State.STOPPING}),
    "end": (State.end, {State.STOPPING: State.STOPPED}),
}

ROW: dict[str, tuple[Callable[[Row], Row], dict[Row, Row]]] = {
    "send": (Row.send, {Row.UNWRITTEN: Row.SENT, Row.SENT: Row.SENT, Row.STANDS: Row.STANDS, Row.LOST: Row.LOST}),
    "written": (
        lambda row: row.written(fresh=False),
        {Row.SENT: Row.STANDS, Row.STANDS: Row.STANDS, Row.LOST: Row.LOST},
    ),
    "written, where there was none": (
        lambda row: row.written(fresh=True),
        {Row.SENT: Row.STANDS, Row.STANDS: Row.LOST, Row.LOST: Row.LOST},
    ),
    "gone": (
        Row.gone,
        {
            Row.UNWRITTEN: Row.UNWRITTEN,
            Row.SENT: Row.SENT,
            Row.STANDS: Row.LOST,
            Row.LOST: Row.LOST,
            Row.LEFT: Row.LEFT,
        },
    ),
    "recounted": (Row.recounted, {Row.LOST: Row.STANDS}),
    "leave": (Row.leave, {Row.SENT: Row.LEFT, Row.STANDS: Row.LEFT, Row.LOST: Row.LEFT, Row.LEFT: Row.LEFT}),
}


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("what", PRODUCER)
def test_a_producer_goes_from_state_to_state_as_drawn(what: str, before: State) -> None:
    move, arrows = PRODUCER[what]
    if before in arrows:
        assert move(before) is arrows[before]
    else:
        with pytest.raises(RuntimeError, match=f"^a producer that is {before.value} does not become "):
            move(before)


@pytest.mark.parametrize("before", Row)
@pytest.mark.parametrize("what", ROW)
def test_a_row_goes_from_state_to_state_as_drawn(what: str, before: Row) -> None:
    move, arrows = ROW[what]
    if before in arrows:
        assert move(before) is arrows[before]
    else:
        with pytest.raises(RuntimeError, match=f"^a row that is {before.value} "):
            move(before)


def test_a_producer_fetches_only_before_it_is_told_to_stop() -> None:
    assert {state for state in State if state.fetches} == {State.NEW, State.WORKING}
    assert {state for state in State if state.cycles} == {State.WORKING, State.DRAINING}


def test_the_heartbeat_keeps_only_rows_that_are_known_to_stand() -> None:
    """Of one that was only sent it would say that it was lost; one that is left it would write again."""
    assert {row for row in Row if row.kept} == {Row.STANDS, Row.LOST}
    assert {row for row in Row if not row.perhaps_there} == {Row.UNWRITTEN}
