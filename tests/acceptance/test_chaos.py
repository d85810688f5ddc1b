"""A short run under random faults; and that its checker sees each promise broken where it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.chaos import checker, page, plan, results
from tests.acceptance.chaos.evidence import FINAL, Evidence, put_in_order
from tests.acceptance.chaos.mutants import mutants
from tests.acceptance.chaos.violation import Violation
from tests.support import run_python

NODE, HOLDER, OTHER = "n0.0", "a", "b"


@pytest.mark.chaos
@pytest.mark.parametrize(("seed", "kind", "seconds"), [(1, "mixed", 10), (282, "flows", 8)])
def test_a_short_run_under_random_faults_breaks_no_promise(seed: int, kind: str, seconds: int, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    words = ("--seed", str(seed), "--kind", kind, "--seconds", str(seconds))
    run = run_python("-m", "tests.acceptance.chaos", *words, timeout=400)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_seed_makes_the_same_plan_again_and_another_one_another() -> None:
    assert plan.make(7, kind="mixed") == plan.make(7, kind="mixed")
    assert len({str(plan.make(seed, kind=kind).faults) for seed in range(20) for kind in plan.KINDS}) == 80


@pytest.mark.parametrize("kind", plan.KINDS)
def test_a_minute_has_faults_of_every_sort_in_some_seed_and_dozens_in_each(kind: str) -> None:
    made = [plan.make(seed, kind=kind) for seed in range(30)]
    assert all(25 < len(each.faults) < 70 for each in made)
    assert {fault.what for each in made for fault in each.faults} == set(plan._WEIGHTS[kind])


def test_every_mutant_breaks_promises_that_a_rule_looks_at() -> None:
    known = {name for name, _, _ in page._PROMISES}
    assert len(mutants()) >= 10
    for mutant in mutants():
        assert mutant.promises and set(mutant.promises) <= known, mutant
        assert mutant.kind in plan.KINDS
        assert mutant.missing


def test_every_mutant_replaces_something_that_is_there_by_something_called_alike() -> None:
    run = run_python("-m", "tests.acceptance.chaos.applies", timeout=300)
    assert (run.returncode, run.stdout) == (0, ""), run.stdout + run.stderr


def test_every_rule_of_the_checker_stands_for_a_promise_on_the_page() -> None:
    assert {rule for _, _, rules in page._PROMISES for rule in rules} == {*checker.RULES, *checker.RULES_OF_FLOWS}


def test_the_page_is_what_the_kept_results_make() -> None:
    assert page.PAGE.read_text() == page.make(results.read())


# The checker


class Told:
    """Evidence, told a fact at a time; moments are seconds."""

    def __init__(self) -> None:
        self.found = Evidence()
        self.found.nodes = {HOLDER: NODE, OTHER: "n1.0"}
        self.found.beats = {each: [half / 2 for half in range(100)] for each in (HOLDER, OTHER)}
        for slot, node in enumerate((NODE, "n1.0")):
            self.line(0, "started", node=node, slot=slot, process=slot)
        self._n = 0

    def line(self, at: float, what: str, **said: Any) -> None:
        self.found.lines.append({"at": at, "what": what, "pid": 1, **said})

    def row(self, job: int, state: str, **other: Any) -> None:
        row: dict[str, Any] = {
            "id": job,
            "state": state,
            "queue": "quick",
            "worker": "x.Steady",
            "args": {"key": f"k{job}"},
            "meta": {},
            "attempt": 1,
            "max_attempts": 20,
            "errors": [],
            "attempted_by": [NODE, HOLDER],
            **{f"{each}_at": each == state for each in FINAL},
        }
        self.found.rows[job] = {**row, **other}

    def change(self, at: float, job: int, before: str, after: str, attempts: tuple[int, int], **other: Any) -> None:
        self._n += 1
        change = {"n": self._n, "at": at, "txid": self._n, "job": job, "before": before, "after": after}
        held = {"attempt_before": attempts[0], "attempt": attempts[1], "holder": HOLDER, "marked": False, **other}
        self.found.changes.setdefault(job, []).append({**change, **held})

    def fetch(self, at: float, job: int = 1, attempt: int = 1, **other: Any) -> None:
        self.change(at, job, "available", "executing", (attempt - 1, attempt), **other)

    def run(self, begin: float, end: float | None, job: int = 1, attempt: int = 1, **other: Any) -> None:
        about = {"job": job, "attempt": attempt, "node": NODE, "holder": HOLDER, "queue": "quick", **other}
        how = about.pop("how", "done")
        self.line(begin, "begin", key=f"k{job}", worker=about.pop("worker", "Steady"), **about)
        if end is not None:
            self.line(end, "end", how=how, **about)

    def completed(self, job: int = 1, **other: Any) -> None:
        """A job that did all as it should, from second 1 to 3."""
        self.row(job, "completed", **other)
        self.fetch(1, job)
        self.run(1.1, 2.9, job, worker=other.get("worker", "x.Steady").removeprefix("x."))
        self.change(3, job, "executing", "completed", (1, 1))

    def broken(self, *rules: Any) -> set[str]:
        self.found.lines.sort(key=lambda line: line["at"])
        put_in_order(self.found)
        return {f"{each.promise} {each.what}" for rule in rules or checker.RULES for each in rule(self.found)}


@pytest.fixture
def told() -> Told:
    return Told()


def test_a_run_as_it_should_be_breaks_nothing(told: Told) -> None:
    told.line(0.5, "committed", keys=["k1"])
    told.completed()
    assert told.broken() == set()


def test_jobs_that_exist_against_their_transaction_are_seen(told: Told) -> None:
    told.line(0.5, "undone", keys=["k1"])
    told.line(0.5, "committed", keys=["k2"])
    told.line(0.5, "unknown", keys=["k1", "k3"])
    told.completed()
    assert told.broken() == {
        "P1 a job that was rolled back exists",
        "P1 a job that was rolled back ran",
        "P1 a committed job is missing",
        "P1 a part of a transaction exists",
    }


def test_a_job_that_exists_twice_is_seen(told: Told) -> None:
    told.completed(1)
    told.completed(2, args={"key": "k1"})
    assert told.broken(checker.atomic) == {"P1 a job exists more than once"}


@pytest.mark.parametrize("state", ["executing", "available", "retryable", "scheduled"])
def test_a_job_that_has_not_ended_is_seen(told: Told, state: str) -> None:
    told.row(1, state)
    assert told.broken(checker.nothing_lost) == {f"P2 a job is left {state}"}


def test_an_attempt_without_a_fetch_and_two_of_one_fetch_are_seen(told: Told) -> None:
    told.completed(1)
    told.run(3.5, 3.6, 1)
    told.run(4, 5, 2)
    assert told.broken(checker.fenced) == {
        "P3 one fetch began an attempt twice",
        "P3 an attempt ran that never held its job",
    }


@pytest.mark.parametrize("state", ["completed", "scheduled"])
def test_an_outcome_that_the_attempt_that_held_the_job_never_said_is_seen(told: Told, state: str) -> None:
    told.fetch(1)
    told.run(1.1, 9)
    told.change(3, 1, "executing", state, (1, 1))
    assert told.broken(checker.fenced) == {f"P3 a job became {state} without the attempt that held it saying so"}


def test_an_outcome_of_an_attempt_of_the_same_number_before_is_seen(told: Told) -> None:
    told.fetch(1)
    told.run(1.1, 2)
    told.change(2.1, 1, "executing", "scheduled", (1, 0))
    told.fetch(3)
    told.run(3.1, 6)
    told.change(4, 1, "executing", "scheduled", (1, 0))  # the first outcome, written again
    assert told.broken(checker.fenced) == {"P3 a job became scheduled without the attempt that held it saying so"}


def test_a_rescue_is_right_only_after_silence(told: Told) -> None:
    told.fetch(1)
    told.run(1.1, 9)
    told.change(5, 1, "executing", "available", (1, 1))
    assert told.broken(checker.fenced) == {"P5 a job was rescued from a node that beat"}
    told.found.beats[HOLDER] = [0.5, 1, 1.5, 4.5]
    told.found.executions, told.found.runs = [], []
    assert told.broken(checker.fenced) == set()


def test_a_sign_of_life_that_comes_late_is_none_until_it_is_there(told: Told) -> None:
    told.fetch(1)
    told.run(1.1, 9)
    told.change(5, 1, "executing", "available", (1, 1))
    told.found.beats[HOLDER] = [0.5, 1, 1.5, 3, 4]
    assert told.broken(checker.fenced) == {"P5 a job was rescued from a node that beat"}
    told.found.executions, told.found.runs = [], []
    told.found.seen[HOLDER] = [(0.5, 0.5), (1, 1), (1.5, 1.5), (6, 3), (6.1, 4)]
    assert told.broken(checker.fenced) == set()


def test_a_job_that_is_given_away_while_it_runs_is_seen(told: Told) -> None:
    told.fetch(1)
    told.run(1.1, 9)
    told.change(5, 1, "executing", "available", (1, 0))
    assert told.broken(checker.fenced) == {"P5 a job was given away while it ran"}


def test_two_runs_at_once_are_right_only_where_the_first_node_was_silent(told: Told) -> None:
    told.fetch(1)
    told.run(1.1, 9)
    told.change(5, 1, "executing", "available", (1, 1))
    told.fetch(5.1, attempt=2, holder=OTHER)
    told.run(5.2, 6, attempt=2, holder=OTHER, node="n1.0", pid=2)
    assert told.broken(checker.never_twice_at_once) == {"P5 a job ran twice at once"}
    told.found.beats[HOLDER] = [0.5, 1, 1.5]
    told.found.executions, told.found.runs = [], []
    assert told.broken(checker.never_twice_at_once) == set()


def test_a_silence_that_was_over_before_the_fetch_excuses_nothing(told: Told) -> None:
    told.found.beats[HOLDER] = [0.1, 5, *(5 + tenth / 10 for tenth in range(1, 100))]
    told.fetch(6)
    told.run(6.1, 12)
    told.fetch(8, attempt=2, holder=OTHER)
    told.run(8.1, 9, attempt=2, holder=OTHER, node="n1.0", pid=2)
    assert told.broken(checker.never_twice_at_once) == {"P5 a job ran twice at once"}


def test_a_node_that_falls_silent_by_itself_is_seen_and_one_that_is_hampered_is_not(told: Told) -> None:
    told.found.beats[HOLDER] = [1, 1.5, 9, 9.5]
    assert told.broken(checker.alive) == {f"P5 node {NODE} lived and gave no sign of life"}
    told.line(2, "hampered", node=NODE, by="freeze")
    told.line(8, "unhampered", node=NODE, by="freeze")
    assert told.broken(checker.alive) == set()


def test_a_server_that_stands_still_with_one_of_its_processes_makes_no_node_silent_by_itself(told: Told) -> None:
    told.found.beats = {HOLDER: [1, 1.5, 9, 9.5], OTHER: [1.2, 1.7, 9.1]}
    assert told.broken(checker.alive) != set()
    told.line(1.6, "hampered", node="n9.0", by="stopped backends")
    assert told.broken(checker.alive) == set()
    # Where another node beat meanwhile, the server did not stand still.
    told.found.beats[OTHER] = [1.2, 1.7, 3, 4.5, 6, 7.5, 9.1]
    assert told.broken(checker.alive) != set()


@pytest.mark.parametrize(
    ("effects", "what"),
    [
        ([], "P4 a job that is completed left 0 effects"),
        ([2, 2], "P4 a job that is completed left 2 effects"),
        ([9], "P4 an effect was committed apart from its job's completion"),
    ],
)
def test_effects_that_are_not_there_once_with_the_completion_are_seen(
    told: Told, effects: Sequence[int], what: str
) -> None:
    told.completed(worker="x.Effect")  # its second change, in transaction 2, completes it
    told.found.effects = [{"job_id": 1, "attempt": 1, "holder": HOLDER, "txid": txid} for txid in effects]
    assert told.broken(checker.effects) == {what}


def test_an_effect_of_a_job_that_is_not_completed_is_seen(told: Told) -> None:
    told.row(1, "discarded", worker="x.Effect")
    told.found.effects = [{"job_id": 1, "attempt": 1, "holder": HOLDER, "txid": 1}]
    assert "P4 a job that is discarded left 1 effects" in told.broken(checker.effects)


def test_a_child_without_its_parents_completion_is_seen(told: Told) -> None:
    told.row(1, "cancelled", worker="x.Effect", args={"key": "k1", "child": True})
    told.row(2, "completed", args={"key": "child of k1"})
    assert told.broken(checker.effects) == {"P4 a job that is cancelled left 1 children"}


def test_attempts_that_nothing_tells_of_are_seen(told: Told) -> None:
    told.completed(attempt=2)
    told.row(2, "discarded", attempt=2, errors=[{"error": "a"}, {"error": "b"}])
    told.row(3, "completed", attempt=21, errors=[{"error": "a"}] * 20)
    assert told.broken(checker.spent) == {
        "P6 a completed job has spent attempts that nothing tells of",
        "P7 a job had more attempts than its most",
    }


def test_a_give_back_that_spends_the_attempt_is_seen(told: Told) -> None:
    told.fetch(1)
    told.run(1.1, 4, how="CancelledError")
    told.line(3, "stopping", node=NODE)
    told.change(4.1, 1, "executing", "available", (1, 1))
    assert told.broken(checker.fenced) == {"P6 a job was given back by a runner that stopped, and its attempt spent"}


def test_runners_that_end_by_themselves_or_not_at_all_are_seen(told: Told) -> None:
    told.run(1, 2)
    told.line(3, "exited", node=NODE, slot=0, code=1, told="")
    told.line(3, "exited", node="n1.0", slot=1, code=1, told="")  # it never worked: its database was away
    told.line(4, "stuck", node="n2.0")
    assert told.broken(checker.stopped) == {f"P6 runner {NODE} ended by itself with 1", "P6 runner n2.0 did not stop"}


def test_poison_that_goes_on_or_ends_otherwise_is_seen(told: Told) -> None:
    for at in (1, 2, 3):
        told.line(at, "poison", job=1, attempt=at, node=NODE)
    told.row(1, "available", worker="x.Poison", max_attempts=2)
    told.row(2, "completed", worker="x.Poison", max_attempts=2)
    told.row(3, "discarded", worker="x.Poison", max_attempts=2, errors=[{"error": "other"}])
    assert told.broken(checker.poison) == {
        "P7 a job killed 3 runners",
        "P7 a job that kills its runner ended completed",
        "P7 a job that kills its runner ended without an error that says so",
    }


@pytest.mark.parametrize("state", ["cancelled", "executing"])
def test_a_fetch_after_a_cancel_is_seen_unless_somebody_retried_the_job(told: Told, state: str) -> None:
    told.line(1, "cancelling", job=1)
    told.line(2, "cancelled", job=1, state=state, attempt=0)
    told.row(1, "cancelled")
    told.fetch(3)
    assert told.broken(checker.cancelled) == {"cancel a cancelled job was fetched"}
    told.line(2.5, "retrying", jobs=[1])
    assert told.broken(checker.cancelled) == set()


def test_a_fetch_from_a_paused_queue_is_seen(told: Told) -> None:
    _ordered(told, 1, "pausing", 0.5, "paused", 1)
    _ordered(told, 2, "resuming", 20, "resumed", 20.5)
    for job, at in ((1, 2), (2, 21), (3, 12)):
        told.row(job, "completed")
        told.fetch(at, job)
    assert [each.job for each in _of(told, checker.paused)] == [3]
    told.line(11, "unhampered", node=NODE, by="stall")
    told.line(9, "hampered", node=NODE, by="stall")
    assert [each.job for each in _of(told, checker.paused)] == []


@pytest.mark.parametrize("resumed", [0.9, 1.5, None])
def test_a_pause_beside_a_resume_may_be_its_last_word_or_not(told: Told, resumed: float | None) -> None:
    _ordered(told, 1, "resuming", 0.4, "resumed", resumed)
    _ordered(told, 2, "pausing", 0.5, "paused", 1)
    told.row(1, "completed")
    told.fetch(12, 1)
    assert [each.job for each in _of(told, checker.paused)] == []
    _ordered(told, 3, "pausing", 2, "paused", 2.5)
    assert [each.job for each in _of(told, checker.paused)] == ([] if resumed is None else [1])


def _ordered(told: Told, call: int, ask: str, asked: float, answer: str, answered: float | None) -> None:
    told.line(asked, ask, queues=["quick"], call=call)
    if answered is not None:
        told.line(answered, answer, queues=["quick"], call=call)


def test_more_jobs_at_once_than_the_limit_are_seen(told: Told) -> None:
    for job in range(1, 8):
        told.row(job, "completed")
        told.fetch(1, job)
        told.run(1 + job / 10, 5, job, pid=job)
    assert [each.job for each in _of(told, checker.limited)] == [7]


def test_rows_that_contradict_themselves_and_rows_of_the_dead_are_seen(told: Told) -> None:
    told.row(1, "completed", completed_at=False)
    told.row(2, "completed", cancelled_at=True)
    told.row(3, "completed", worker="x.Recording")
    told.line(9, "unburied", node="n5.0", queue="quick", holder="c")
    told.found.producers = [{"holder": "d", "node": "n6.0", "queue": "slow"}]
    assert told.broken(checker.sane) == {
        "rows a job is completed at no moment",
        "rows a completed job was cancelled or discarded too",
        "rows a completed job lost what it recorded",
        "rows the row of dead node n5.0 is left in queue quick",
        "rows node n6.0 left its row in queue slow when it stopped",
    }


def test_errors_of_a_runners_own_are_seen_and_those_of_jobs_are_not(told: Told) -> None:
    failed = '{"level": "error", "logger": "oban_sa.job", "event": "oban.job.exception"}'
    away = '{"level": "warning", "logger": "oban_sa.runner", "message": "the database is away"}'
    told.found.logs = {"n0.0": f"{failed}\n{away}\nError: can't connect to postgresql://"}
    assert told.broken(checker.logs) == set()
    told.found.logs = {"n0.0": f'{failed}\n{{"level": "error", "logger": "asyncio"}}', "n1.0": "Traceback (most"}
    assert told.broken(checker.logs) == {
        "logs a runner told of an error of its own",
        "logs a runner ended with a traceback",
    }


def _of(told: Told, rule: Any) -> list[Violation]:
    told.found.executions, told.found.runs = [], []
    told.broken(rule)
    return sorted(rule(told.found), key=lambda each: each.job or 0)


def test_a_violation_says_what_is_wrong_with_which_job_and_when() -> None:
    violation = Violation("P5", "a job ran twice at once", 7, 1.5, "one beside another")
    assert str(violation) == "P5 a job ran twice at once job 7 at 1.500: one beside another"


def test_results_come_back_as_they_were_written(tmp_path: Path) -> None:
    run = results.Result(1, "mixed", 60.0, 3, 40, 100, 9, 500, 700, 20, 5, ("P5", "P5"))
    caught = results.Caught("no_fence", "stalls", 3, 2, "P4")
    results.write([run], None, tmp_path / "kept.json")
    results.write(None, [caught], tmp_path / "kept.json")
    kept = results.read(tmp_path / "kept.json")
    assert _again(results.Result, kept["runs"]) == [run]
    assert _again(results.Caught, kept["mutants"]) == [caught]
    assert str(run).endswith("5 unknown commits: 2 x P5")


def test_runs_of_flows_and_of_jobs_alone_do_not_replace_each_other(tmp_path: Path) -> None:
    job, flow = (results.Result(1, kind, 60.0, 3, 40, 100, 9, 500, 700, 20, 5) for kind in ("mixed", "flows"))
    newer = dataclasses.replace(job, seed=2)
    for each in (flow, job, newer):
        results.write([each], None, tmp_path / "kept.json")
    assert _again(results.Result, results.read(tmp_path / "kept.json")["runs"]) == [newer, flow]
    for name, promise in (("b", "P4"), ("a", "P2"), ("b", "P5")):
        results.write(None, [results.Caught(name, "mixed", 1, 1, promise)], tmp_path / "kept.json")
    kept = results.read(tmp_path / "kept.json")["mutants"]
    assert [(each["name"], each["promise"]) for each in kept] == [("a", "P2"), ("b", "P5")]


def _again(kind: Any, kept: Iterable[dict[str, Any]]) -> list[Any]:
    def tuples(values: dict[str, Any]) -> dict[str, Any]:
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

    return [kind(**tuples(values)) for values in kept if dataclasses.is_dataclass(kind)]
