"""Notes that come one by one are booked at once, and under load many together, by whichever node."""

from __future__ import annotations

from oban_sa.runner.maintenance.pace import ASIDE, LEAST, MOST, Found, Pace


def notes(first: int, last: int, *, lane: int = 0) -> list[Found]:
    return [Found(lane, last - first + 1, first, last)]


def loaded() -> Pace:
    """A pace after a booking of ten notes, the last of which had the id 10."""
    pace = Pace()
    pace.booked(10, 0.002, 10)
    return pace


def test_lone_notes_are_booked_at_once() -> None:
    pace = Pace()
    for number in range(1, 100):
        assert not pace.leaves(notes(number, number))
        pace.booked(1, 0.002, number)
        assert pace.pause == 0


def test_after_many_it_rests_four_times_as_long_as_it_booked_within_bounds() -> None:
    pace = Pace()
    pace.booked(10, 0.002, 10)
    assert pace.pause == 0.008
    pace.booked(1000, 1.0, 1010)
    assert pace.pause == MOST
    pace.booked(10, 0.0001, 1020)
    assert pace.pause == LEAST


def test_the_pause_wears_off_once_few_come() -> None:
    pace = loaded()
    pauses = []
    for _ in range(5):
        pace.booked(0, 0.0, 0)
        pauses.append(pace.pause)
    assert pauses == [0.004, 0.002, 0.001, 0, 0]


def test_it_rests_while_another_node_books() -> None:
    pace = Pace()
    pauses = []
    for _ in range(8):
        pace.booked(0, 0.001, 7)
        pauses.append(pace.pause)
    assert pauses == sorted(pauses)
    assert pauses[0] > 0
    assert pauses[-1] == ASIDE


def test_a_node_alone_leaves_nothing() -> None:
    assert not loaded().leaves(notes(11, 15))


def test_few_notes_beside_nodes_that_book_are_left_once() -> None:
    pace = loaded()
    assert pace.leaves(notes(31, 35))
    assert not pace.leaves(notes(31, 38))
    pace.booked(8, 0.002, 38)
    assert pace.leaves(notes(61, 65))
    assert pace.leaves(notes(71, 75))  # others have booked those from before


def test_a_node_beside_one_that_books_looks_less_often_each_time() -> None:
    pace = loaded()
    pauses = []
    for number in range(6):
        first = 1000 * (number + 1)
        assert pace.leaves(notes(first, first + 99))
        pauses.append(pace.pause)
    assert pauses == [0.016, 0.032, 0.064, ASIDE, ASIDE, ASIDE]
    assert not pace.leaves(notes(first, first + 99))  # the other one books no more
    pace.booked(100, 0.002, first + 99)
    assert pace.pause == 0.008


def test_without_load_nothing_is_left() -> None:
    assert not Pace().leaves(notes(31, 35))
