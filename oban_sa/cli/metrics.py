"""`python -m oban_sa metrics`: what runners did, how long it took, what failed, and what waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import click

from oban_sa.cli._database import database_options, json_option, run_with_client
from oban_sa.cli._output import Row, document, say, table
from oban_sa.client.counts import SHARES, Sums
from oban_sa.client.metrics import Metrics, Span, read_metrics, span_back
from oban_sa.describe import spans
from oban_sa.errors import ObanError
from oban_sa.jobs.states import JobState
from oban_sa.settings.settings import Settings
from oban_sa.sql import metrics

HELP = """Show what runners did: attempts that ended, how long they ran and waited, what failed, and what waits.

\b
Examples:
  python -m oban_sa metrics                             # the last hour, by worker
  python -m oban_sa metrics --since 7d --by queue       # a week, and what waits in each queue
  python -m oban_sa metrics --by error                  # which classes of errors, and whose
  python -m oban_sa metrics --since 24h --by time --worker app.jobs.Charge
  python -m oban_sa metrics --json | jq .all.run.p95    # seconds, for an alarm

It is what the dashboard shows as Metrics. Runners write it every ten seconds, and no job has to be kept for it. It is
read by minutes up to 6 hours back, by hours up to 15 days, and by days up to 100 days; the last of them is under way.

Counts are exact, percentiles right within 2 %. Wait is the time from when a job was due to its fetch. Available are
the jobs that waited when a node last looked, most often within the last minute, up to 10,000 of a queue; oldest is how
long the first of them had waited.
"""

NAMES: Final = tuple(f"p{round(share * 100)}" for share in SHARES)
"""The percentiles."""

NAMED: Final = 3
"""Classes of errors that are named beside a worker."""

_STEPS: Final = {metrics.MINUTE: "minute", metrics.HOUR: "hour", metrics.DAY: "day"}
_COUNTED: Final = ("ended", "failed", "share")
_RUN: Final = tuple(f"run {name}" for name in NAMES)
_WAIT: Final = tuple(f"wait {name}" for name in NAMES)
_WAITING: Final = ("available", "oldest")
_OUTCOMES: Final[Mapping[str, JobState]] = {
    "completed": JobState.COMPLETED,
    "retryable": JobState.RETRYABLE,
    "discarded": JobState.DISCARDED,
    "cancelled": JobState.CANCELLED,
    "snoozed": JobState.SCHEDULED,
}


@dataclass(frozen=True, slots=True)
class _Lines:
    """What is printed; the first `words` columns are no numbers, and `wide` is one that may be cut."""

    columns: Sequence[str]
    rows: Sequence[Row]
    words: int
    wide: str | None = None

    def show(self, limit: int) -> None:
        """Print the first rows."""
        right = [name for name in self.columns[self.words :] if name != self.wide]
        table(self.columns, self.rows[:limit], right=right, wide=self.wide)
        if (more := len(self.rows) - limit) > 0:
            say(f"{spans.count(more, 'more line')} not shown; --limit {len(self.rows)} shows all.")


def _span(_ctx: click.Context, _option: click.Parameter, given: str) -> Span:
    try:
        return span_back(given)
    except ObanError as error:
        raise click.BadParameter(str(error)) from None


@click.command("metrics", help=HELP, short_help="What runners did, how long it took, and what failed.")
@click.option(
    "--since", "within", metavar="SPAN", default="1h", show_default=True, callback=_span, help="How far back: 90m, 7d."
)
@click.option(
    "--by",
    type=click.Choice(["worker", "queue", "error", "time"]),
    default="worker",
    show_default=True,
    help="What each line is of.",
)
@click.option("--queue", "queues", multiple=True, metavar="NAME", help="Only of this queue; repeatable.")
@click.option("--worker", metavar="NAME", help="Only of this worker, by its whole name.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True, help="How many lines at most.")
@json_option
@database_options
def command(
    settings: Settings, *, within: Span, by: str, queues: Sequence[str], worker: str | None, limit: int, as_json: bool
) -> None:
    """Print what runners have written."""
    found = run_with_client(
        settings, lambda oban: read_metrics(oban, within, queues=frozenset(queues) or None, worker=worker)
    )
    if as_json:
        document(_as_json(found))
        return
    say(f"The last {spans.count(within.count, _STEPS[within.step])}, until {spans.exact(found.now)}")
    if not found.all.total and found.waiting() == (None, None):
        chosen = " of this queue or worker" if queues or worker else ""
        say(f"Nothing{chosen} was written in this time. Runners write what they did every ten seconds, unless")
        say("metrics_every is none or their role lacks a right: `python -m oban_sa grants --role runner`.")
        return
    click.echo()
    waits = worker is None  # what waits is counted by queue alone
    columns = (*_COUNTED, *_RUN, *_WAIT, *(_WAITING if waits else ()))
    _Lines(columns, [(*_sums(found.all), *(_waiting(*found.waiting()) if waits else ()))], 0).show(1)
    click.echo()
    lines = _BY[by](found, waits)
    if lines.rows:
        lines.show(limit)
    else:
        say("No attempt failed." if by == "error" else "No attempt ended.")
    if found.measured_since is not None and by in ("worker", "queue"):
        say(
            f"Percentiles of each are of what ended from {spans.exact(found.measured_since)} on, as there is very much."
        )
    since = found.moments_since if by == "time" else found.workers_since
    if since is not None:
        say(f"There is more than is read at once, so this begins at {spans.exact(since)}.")
        say("Give --queue, or a shorter --since.")


def _by_worker(found: Metrics, waits: bool) -> _Lines:
    rows = [
        (worker, queue, *_counts(sums), *map(_seconds, sums.runs()), _seconds(sums.waits()[1]), _errors(sums))
        for (queue, worker), sums in found.workers.items()
    ]
    return _Lines(("worker", "queue", *_COUNTED, *_RUN, _WAIT[1], "errors"), rows, 2, "errors")


def _by_queue(found: Metrics, waits: bool) -> _Lines:
    rows = [
        (queue, *_sums(sums), *(_waiting(*found.waiting(queue)) if waits else ()))
        for queue, sums in found.by_queue().items()
    ]
    return _Lines(("queue", *_COUNTED, *_RUN, *_WAIT, *(_WAITING if waits else ())), rows, 1, "queue")


def _by_error(found: Metrics, waits: bool) -> _Lines:
    failed = [
        (count, error, worker, queue)
        for (queue, worker), sums in found.workers.items()
        for error, count in sums.failures.items()
    ]
    failed.sort(key=lambda each: (-each[0], *each[1:]))
    rows = [(error, worker, queue, f"{count:,}") for count, error, worker, queue in failed]
    return _Lines(("error", "worker", "queue", "failed"), rows, 3, "error")


def _by_time(found: Metrics, waits: bool) -> _Lines:
    rows = [
        (
            spans.exact(each.at),
            *(f"{each.sums.outcomes[state.value]:,}" for state in _OUTCOMES.values()),
            *map(_seconds, each.sums.runs()),
            _seconds(each.sums.waits()[1]),
            *(_waiting(each.backlog, each.oldest) if waits else ()),
        )
        for each in reversed(found.moments)
        if each.sums.total or each.backlog is not None
    ]
    return _Lines(("from", *_OUTCOMES, *_RUN, _WAIT[1], *(_WAITING if waits else ())), rows, 1)


_BY: Final[Mapping[str, Callable[[Metrics, bool], _Lines]]] = {
    "worker": _by_worker,
    "queue": _by_queue,
    "error": _by_error,
    "time": _by_time,
}


def _sums(sums: Sums) -> Row:
    return (*_counts(sums), *map(_seconds, sums.runs()), *map(_seconds, sums.waits()))


def _counts(sums: Sums) -> Row:
    share = f"{100 * sums.failed / sums.total:.1f} %" if sums.total else None
    return f"{sums.total:,}", f"{sums.failed:,}", share


def _waiting(available: int | None, oldest: float | None) -> Row:
    return None if available is None else f"{available:,}", _seconds(oldest)


def _seconds(value: float | None) -> str | None:
    return None if value is None else spans.duration(value)


def _errors(sums: Sums) -> str:
    named = [f"{error} {count:,}" for error, count in sums.failures.most_common(NAMED)]
    if (more := len(sums.failures) - NAMED) > 0:
        named.append(f"{more} more")
    return ", ".join(named)


def _as_json(found: Metrics) -> dict[str, object]:
    return {
        "now": found.now,
        "since": found.moments[0].at,
        "step": found.span.step,
        "all": {**_sums_as_json(found.all), **_waiting_as_json(*found.waiting())},
        "queues": [
            {"queue": queue, **_sums_as_json(sums), **_waiting_as_json(*found.waiting(queue))}
            for queue, sums in found.by_queue().items()
        ],
        "workers": [
            {"worker": worker, "queue": queue, **_sums_as_json(sums)} for (queue, worker), sums in found.workers.items()
        ],
        "moments": [
            {"at": each.at, **_sums_as_json(each.sums, failures=False), **_waiting_as_json(each.backlog, each.oldest)}
            for each in found.moments
        ],
        "moments_since": found.moments_since,
        "workers_since": found.workers_since,
        "measured_since": found.measured_since,
    }


def _sums_as_json(sums: Sums, *, failures: bool = True) -> dict[str, object]:
    return {
        "ended": sums.total,
        "failed": sums.failed,
        "outcomes": dict(sums.outcomes),
        **({"failures": dict(sums.failures)} if failures else {}),
        "run": dict(zip(NAMES, sums.runs(), strict=True)),
        "wait": dict(zip(NAMES, sums.waits(), strict=True)),
    }


def _waiting_as_json(available: int | None, oldest: float | None) -> dict[str, object]:
    return {"available": available, "oldest": oldest}
