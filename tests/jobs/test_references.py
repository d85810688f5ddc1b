from __future__ import annotations

import copy

import pytest

from oban_sa.jobs.references import Reference, ref


class User:
    def __eq__(self, other: object) -> bool:
        raise AssertionError("a target is never compared")

    __hash__ = None  # type: ignore[assignment]


def test_a_reference_says_of_which_kind_of_object_and_which_attribute_it_is():
    assert repr(ref(User())) == "ref(<User>)"
    assert repr(ref(User(), "email")) == "ref(<User>, 'email')"


def test_a_reference_is_its_own_whatever_its_target_thinks_of_equality():
    user = User()
    first, second = ref(user), ref(user)
    assert first != second
    assert len({first, second}) == 2


def test_a_reference_can_not_be_pointed_elsewhere():
    reference = ref(User())
    assert isinstance(reference, Reference)
    with pytest.raises(AttributeError, match="can't be changed"):
        reference.target = 1


def test_a_copy_of_a_reference_is_itself_for_its_target_must_not_be_copied():
    args = {"user": [ref(User())]}
    assert copy.copy(args["user"][0]) is args["user"][0]
    assert copy.deepcopy(args)["user"][0] is args["user"][0]
