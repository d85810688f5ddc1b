"""Events in a few words, for people who read logs."""

from __future__ import annotations

from typing import Final

from oban_sa import telemetry
from oban_sa.describe import exceptions, printable
from oban_sa.describe.exceptions import named
from oban_sa.jobs.states import JobState
from oban_sa.schedule.periods import describe

_FEW: Final = 5
"""Names that are told of many."""

_STOPPED: Final = {JobState.SCHEDULED: "snoozed", JobState.AVAILABLE: "given back"}
"""What became of a job, where its state alone says too little."""


def sentence(event: telemetry.Event) -> str:
    """Say in a few words, and on one line, what happened."""
    return printable.line(_sentence(event))


def _sentence(event: telemetry.Event) -> str:
    match event:
        case telemetry.JobStop():  # first, as most are this
            return f"{_job(event)} {_STOPPED.get(event.state, event.state)} after {describe(event.duration)}"
        case telemetry.JobsEnqueued():
            return f"enqueued {event.count} of {event.worker.rpartition('.')[2]} in queue {event.queue}"
        case telemetry.JobStart():
            return f"{_job(event)} started after {describe(event.queue_time)} in the queue"
        case telemetry.JobException():
            after = f"{_job(event)} failed after {describe(event.duration)}: {named(event.error)}"
            if event.state is JobState.DISCARDED:
                return f"{after}; discarded, no attempt is left"
            return f"{after}; next attempt in {describe(event.retry_in)}" if event.retry_in is not None else after
        case telemetry.JobStale():
            return (
                f"{_job(event)} lost its job to another attempt or was cancelled; its outcome {event.state} was dropped"
            )
        case telemetry.JobIdle():
            return f"{_job(event)} left its connection idle in a transaction for {describe(event.idle)}"
        case telemetry.StepStart():
            return f"{_job(event)} {'takes' if event.replayed else 'begins'} step {event.step}{_replayed(event)}"
        case telemetry.StepStop():
            return f"{_job(event)} journalled step {event.step} after {describe(event.duration)}"
        case telemetry.Suspended():
            what = "time" if event.signal is None else f"signal {event.signal}"
            most = "" if event.delay is None else f", for {describe(event.delay)} at most"
            return f"{_job(event)} is suspended and waits for {what}{most}"
        case telemetry.SignalReceived():
            if event.timed_out:
                return f"{_job(event)} waited for signal {event.signal} until its time was up"
            return f"{_job(event)} has received signal {event.signal}"
        case telemetry.StepChanged():
            return (
                f"{_job(event)} takes step {event.step} from its journal as the result of {event.called}(), "
                f"but {event.recorded}() had written it; give what means something else a name of its own"
            )
        case telemetry.StepsUnused():
            more = f" and {len(event.steps) - _FEW} more" if len(event.steps) > _FEW else ""
            return (
                f"{_job(event)} is completed by code that did not ask for {', '.join(event.steps[:_FEW])}{more} of its "
                "journal; where a step was renamed, it has run under both names"
            )
        case telemetry.WorkerUnknown():
            version = "" if event.version is None else f" with args of version {event.version}"
            return (
                f"queue {event.queue} has jobs of {event.worker}{version}, which this program does not know "
                f"({exceptions.message(event.error)}); they spend no attempt here and are left to a program that does"
            )
        case telemetry.ProducerFetch():
            return f"fetched {event.count} of {event.demand} jobs in {describe(event.duration)}"
        case telemetry.ProducerAck():
            dropped = f", {event.stale} of them too late" if event.stale else ""
            return f"wrote {event.count} outcomes{dropped} in {describe(event.duration)}"
        case telemetry.ProducerLost():
            return f"queue {event.queue} found its producer row gone, as when it was taken for dead, and wrote it again"
        case telemetry.UniqueConflict():
            replaced = f"; it has the new {', '.join(event.replaced)}" if event.replaced else ""
            name = event.worker.rpartition(".")[2]
            return f"{name} was not enqueued, as job {event.job_id} ({event.state}) is the same{replaced}"
        case telemetry.RateSpent():
            return f"queue {event.queue} has spent its rate; the next job starts in {describe(event.available_in)}"
        case telemetry.RateAvailable():
            return f"queue {event.queue} has some of its rate left"
        case telemetry.SequenceHalted():
            return (
                f"the sequence {event.key} of queue {event.queue} is halted, as job {event.job_id} "
                f"{event.worker.rpartition('.')[2]} was discarded; retry that job, or let the others go on with "
                "sequences resume"
            )
        case telemetry.SequenceResumed():
            return f"the sequence {event.key} of queue {event.queue} goes on"
        case telemetry.StagerStage():
            return f"made {event.count} due jobs available in {describe(event.duration)}"
        case telemetry.SettlerSettle():
            what = f"released {event.released} jobs, cancelled {event.cancelled} and closed {event.closed} flows"
            return f"booked {event.count} endings, {what}, in {describe(event.duration)}"
        case telemetry.LeaderElection():
            return "this node is the leader now" if event.leader else "this node is not the leader any more"
        case telemetry.LifelineRescue():
            lost = f", {event.discarded} of them discarded" if event.discarded else ""
            return f"jobs rescued from dead nodes: {event.count}{lost}{_ids(event.job_ids)}"
        case telemetry.PrunerPrune():
            trees = f" and {event.workflows} workflows" if event.workflows else ""
            return f"pruned {event.count} jobs{trees} that were over, in {describe(event.duration)}"
        case telemetry.SchedulerTick():
            skipped = f", {event.skipped} skipped because their last job is unfinished" if event.skipped else ""
            paused = f", {event.paused} entries are paused" if event.paused else ""
            return f"jobs made by the crontab for {event.at:%Y-%m-%d %H:%M:%S}: {event.count}{skipped}{paused}"
        case telemetry.NotifierConnected():
            return "listening for new jobs"
        case telemetry.NotifierDisconnected():
            return f"stopped listening: {named(event.error)}; polling, and trying again in {describe(event.retry_in)}"
        case telemetry.NotifierDeaf():
            return (
                "notifications do not arrive, as happens behind a pooler in transaction mode; polling instead. "
                "Give a direct connection with --listen-url for jobs to start at once"
            )
        case telemetry.RunnerStart():
            queues = ", ".join(f"{queue}:{limit}" for queue, limit in event.queues.items())
            return f"running {queues} as {event.runner.node}"
        case telemetry.RunnerStopping():
            if not event.running:
                return "stopping; no job is running"
            return f"stopping; jobs still running: {event.running}, with {describe(event.grace)} to finish"
        case telemetry.RunnerStop():
            gave = f"; {event.given_back} unfinished jobs given back" if event.given_back else ""
            return f"stopped after {describe(event.duration)}{gave}"
        case telemetry.RunnerRetry():
            nth = f" ({event.attempt} times in a row)" if event.attempt > 1 else ""
            return f"{event.part} failed{nth}: {named(event.error)}; trying again in {describe(event.retry_in)}"
        case telemetry.RunnerRecover():
            return f"{event.part} works again after {event.attempts} failures in {describe(event.duration)}"
        case telemetry.RunnerLocked():
            return f"a statement waits for a lock that the session with pid {event.pid} holds"
        case telemetry.RunnerLag():
            where = f" at {event.place}" if event.place else ""
            return f"the event loop stood still for {describe(event.lag)}{where}"
        case telemetry.WebAction():
            return _action(event)
        case _:
            return event.name


def _replayed(event: telemetry.StepStart) -> str:
    return " from its journal" if event.replayed else ""


def _action(event: telemetry.WebAction) -> str:
    who = f"{event.user or 'a visitor'}{f' at {event.address}' if event.address else ''}"
    what = event.target or (f"jobs of {event.query!r}" if event.query is not None else f"jobs{_ids(event.job_ids)}")
    if not event.allowed:
        return f"{who} was refused: {event.action} {what}"
    return f"{who}: {event.action} {what}" + ("" if event.target else f", {event.count} changed")


def _ids(job_ids: tuple[int, ...]) -> str:
    if not job_ids:
        return ""
    more = f" and {len(job_ids) - _MOST_IDS} more" if len(job_ids) > _MOST_IDS else ""
    return f" ({', '.join(str(job_id) for job_id in job_ids[:_MOST_IDS])}{more})"


_MOST_IDS: Final = 10


def _job(event: telemetry.JobEvent) -> str:
    return f"job {event.job_id} {event.worker.rpartition('.')[2]}"
