from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from oban_sa import hooks


@pytest.fixture
def add():
    removers = []

    def add(hook):
        remove = hooks.after_new(hook)
        removers.append(remove)
        return remove

    yield add
    for remove in removers:
        remove()


def test_every_hook_sees_what_was_made_in_the_order_they_were_added(add):
    seen = []
    add(lambda job: seen.append(("first", job)))
    add(lambda job: seen.append(("second", job)))
    hooks.made("a job")
    assert seen == [("first", "a job"), ("second", "a job")]


def test_a_removed_hook_sees_nothing_more_and_removing_it_again_is_harmless(add):
    seen = []
    remove = add(seen.append)
    hooks.made(1)
    remove()
    remove()
    hooks.made(2)
    assert seen == [1]


def test_a_hook_added_twice_is_called_twice_and_removed_once_at_a_time(add):
    seen = []
    first = add(seen.append)
    add(seen.append)
    hooks.made(1)
    first()
    hooks.made(2)
    assert seen == [1, 1, 2]


def test_what_a_hook_raises_reaches_whoever_made_the_job(add):
    def refuse(job):
        raise LookupError(job)

    add(refuse)
    with pytest.raises(LookupError):
        hooks.made("a job")


def test_a_hook_may_remove_itself_while_it_runs(add):
    seen = []

    def once(job):
        seen.append(job)
        remove()

    remove = add(once)
    add(seen.append)
    hooks.made(1)
    hooks.made(2)
    assert seen == [1, 1, 2]


def test_what_is_no_function_is_refused_where_it_is_added():
    with pytest.raises(TypeError, match="function of one job"):
        hooks.after_new("job")  # type: ignore[arg-type]


def test_the_list_of_hooks_changes_only_under_its_lock(monkeypatch):
    seen = []

    class Watched:
        def __enter__(self):
            seen.append(("taken", len(hooks.AFTER_NEW.hooks)))

        def __exit__(self, *error):
            seen.append(("left", len(hooks.AFTER_NEW.hooks)))

    monkeypatch.setattr(hooks, "_lock", Watched())
    before = len(hooks.AFTER_NEW.hooks)
    hooks.after_new(print)()
    assert seen == [("taken", before), ("left", before + 1), ("taken", before + 1), ("left", before)]


def test_hooks_added_and_removed_by_many_threads_leave_none_behind_and_lose_none():
    before = hooks.AFTER_NEW.hooks
    kept = []

    def work():
        for _ in range(200):
            hooks.after_new(print)()
        kept.append(hooks.after_new(print))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hooks.AFTER_NEW.hooks) == len(before) + 8
    for remove in kept:
        remove()
    assert hooks.AFTER_NEW.hooks == before


@pytest.fixture
def before_insert():
    removers = []

    def add(hook):
        removers.append(hooks.before_insert(hook))
        return removers[-1]

    yield add
    for remove in removers:
        remove()


def test_a_job_about_to_be_written_is_shown_in_order_until_the_hook_is_removed(before_insert):
    seen = []
    remove = before_insert(lambda job: seen.append(("first", job.meta)))
    before_insert(lambda job: seen.append(("second", job.meta)))
    job = SimpleNamespace(args={}, meta={"a": 1})
    hooks.writing(job)
    remove()
    remove()
    hooks.writing(job)
    assert seen == [("first", {"a": 1}), ("second", {"a": 1}), ("second", {"a": 1})]


def test_a_hook_that_writes_into_meta_changes_no_dict_of_anyone_else(before_insert):
    before_insert(lambda job: job.meta.update(seen=True))
    shared = {"a": 1}
    jobs = [SimpleNamespace(args=shared, meta=shared) for _ in range(2)]
    for job in jobs:
        hooks.writing(job)
    assert shared == {"a": 1}
    assert [job.meta for job in jobs] == [{"a": 1, "seen": True}] * 2
    assert [job.args for job in jobs] == [{"a": 1}] * 2


def test_what_is_no_function_is_refused_before_an_insert(before_insert):
    with pytest.raises(TypeError, match="a hook is a function of one job, not 'traceparent'"):
        before_insert("traceparent")
