from __future__ import annotations

import inspect
import re

import pytest

from oban_sa import errors
from oban_sa.errors import ObanError, nearest

CLASSES = [each for _, each in inspect.getmembers(errors, inspect.isclass) if issubclass(each, ObanError)]


def drawn() -> dict[str, tuple[str, str | None]]:
    """Read the tree in the module's docstring: a class, its parent in the tree and its second base."""
    tree: dict[str, tuple[str, str | None]] = {}
    ancestors: list[str] = []
    for line in inspect.getdoc(errors).splitlines():  # type: ignore[union-attr]
        found = re.fullmatch(r"([ │├└─]*)([A-Z]\w+)(?:\((\w+)\))?", line)
        if found is None or (not found[1] and found[2] != "ObanError"):
            continue
        depth = (len(found[1]) - 4) // 4
        del ancestors[depth:]
        if ancestors:
            tree[found[2]] = (ancestors[-1], found[3])
        ancestors.append(found[2])
    return tree


def test_the_tree_that_the_module_draws_is_the_tree_of_its_classes():
    actual = {}
    for each in CLASSES:
        if each is not ObanError:
            parent, *others = each.__bases__
            actual[each.__name__] = (parent.__name__, others[0].__name__ if others else None)
    assert drawn() == actual


REQUIRED = {
    errors.SchemaOutdated: {"found": 1, "required": 2},
    errors.LimitReached: {"name": "stripe", "key": "acme", "full": "rate", "retry_in": 1.5},
    errors.LimitLost: {"name": "stripe", "key": "acme"},
    errors.RelayDiscarded: {"errors": []},
}


@pytest.mark.parametrize("each", CLASSES, ids=lambda each: each.__name__)
def test_every_error_explains_itself_without_being_told_anything(each):
    required = REQUIRED.get(each, {})
    assert str(each(**required)) == each.__doc__
    assert str(each("in other words", **required)) == "in other words"


def test_errors_are_caught_as_what_python_calls_them():
    assert issubclass(errors.InvalidArguments, ValueError)
    assert issubclass(errors.InvalidPeriod, ValueError)
    assert issubclass(errors.WorkerNotFound, LookupError)
    assert issubclass(errors.JobNotFound, LookupError)
    assert issubclass(errors.AttemptTimedOut, TimeoutError)


def test_errors_carry_what_a_program_wants_to_know():
    assert errors.InvalidArguments("no", path="args.a").path == "args.a"
    outdated = errors.SchemaOutdated(found=1, required=3)
    assert (outdated.found, outdated.required) == (1, 3)


def test_the_nearest_word_is_offered_and_nothing_where_none_is_near():
    assert nearest("que", ["queue", "priority"]) == "; did you mean 'queue'?"
    assert nearest("zebra", ["queue", "priority"]) == ""
    assert nearest("queue", []) == ""
