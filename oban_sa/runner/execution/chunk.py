"""A chunk under way: several attempts that are one call, from the first job to the outcome of each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, TypeAlias

from oban_sa.errors import AttemptCancelled, CommitUnanswered
from oban_sa.jobs.answers import Answer, is_error, raised
from oban_sa.jobs.durable import RELAY
from oban_sa.jobs.flow import LANE
from oban_sa.jobs.verdicts import Verdict, given_back, judge
from oban_sa.models import Job
from oban_sa.runner.execution.attempt import Running
from oban_sa.runner.execution.outcome import Outcome
from oban_sa.runner.sessions.commit import Others
from oban_sa.workers.chunk import ChunkResult, Discard
from oban_sa.workers.definition import Definition

Enter: TypeAlias = Callable[[Running, Mapping[str, object], Definition], Awaitable[None]]
"""Does what the meta of an attempt's job asks for before its code begins; raises what keeps it from beginning."""

Decide: TypeAlias = Callable[[Running, object], Verdict]
"""Returns the verdict on an attempt with an answer."""

Tell: TypeAlias = Callable[[Running, Verdict, object], object]
"""Tells listeners of the end of a job: its verdict and its answer."""


class Chunks(Protocol):
    """What gathers jobs for chunks."""

    async def gather(self, chunk: ChunkRun) -> None:
        """Add jobs to a chunk that begins; or have its first job join another one, which is its chunk then."""
        ...


class ChunkRun:
    """A chunk: the attempt that it began with, and those that were added.

    Each attempt has its own job, fence and outcome. What holds for all of them is what the code answers or raises.
    """

    def __init__(self, first: Running, definition: Definition) -> None:
        self.first = first
        self.definition = definition
        self.added: list[Running] = []
        self.outcomes: dict[int, Outcome] = {}
        """Of those that were added, by the ids of their jobs; without those that the code's session has written."""
        self._ready: list[Running] = []
        self._said: dict[int, object] = {}
        """What keeps jobs out of the call."""
        self._named: dict[int, object] = {}
        self._secrets: list[str] | None = None
        """What is not to be seen of the args of any of the jobs; None before it is known."""
        self._cleared: dict[int, BaseException] = {}
        """The errors that have none of it any more."""

    @property
    def all(self) -> list[Running]:
        """The attempts, in the order in which they came."""
        return [self.first, *self.added]

    def add(self, attempt: Running) -> None:
        """Add an attempt that was fetched."""
        attempt.chunk = self
        self.added.append(attempt)

    async def gather(self, chunks: Chunks | None, *, began: Callable[[Job], object], enter: Enter) -> list[Job]:
        """Begin: return the jobs that the code is called with; none where the first job has joined another chunk.

        Those are the jobs that nothing keeps out, and that are still wanted. `began` is told of each job that was
        added, and `enter` raises what keeps it out.
        """
        self.first.chunk = self
        if chunks is not None:
            await chunks.gather(self)
            if self.first.chunk is not self:
                return []
        for each in self.added:
            began(each.job)
            each.definition = self.definition
            each.begun = True
            if each.unreadable is not None:
                self._said[each.job.id] = each.unreadable
                continue
            try:
                if meta := each.attempt.meta:
                    await enter(each, meta, self.definition)
            except Answer as said:
                self._said[each.job.id] = raised(said)
            except Exception as error:
                self._said[each.job.id] = error
        for each in self.all:
            if each.attempt.job_id in self._said:
                continue
            if each.asked:
                self._said[each.attempt.job_id] = AttemptCancelled()
            elif each.interrupted is None:
                self._ready.append(each)
        return [each.job for each in self._ready]

    async def conclude(self, attempt: Running, answer: object, decide: Decide, tell: Tell) -> Outcome | None:
        """Judge and commit all: return the outcome of the first job; `outcomes` has those of the others then.

        Only the first `attempt` concludes the chunk; one that has joined it has nothing to write.
        """
        if attempt is not self.first:
            return None
        try:
            self._recall()
            answer = self.understood(answer)
            verdicts = self.judge(answer, decide)
            committed = None
            if (session := attempt.session) is not None and session.is_open:
                if is_error(answer):
                    await session.close()
                else:
                    try:
                        committed = await session.commit(verdicts[attempt], others=self.others(verdicts))
                    except BaseException as error:
                        attempt.uncancel()
                        answer = error
                        verdicts = self.judge(answer, decide)
                self._recall()
            if attempt.time_limit is not None:
                attempt.time_limit.close()
            if committed is False:  # one of the jobs was lost, and what the code wrote is rolled back
                verdicts = self.given_back()
            else:
                for each, verdict in verdicts.items():
                    tell(each, verdict, self.told(each, answer))
            if committed:
                return None
            unanswered = isinstance(answer, CommitUnanswered)
            self.outcomes = {
                each.attempt.job_id: Outcome(each, verdict, 0, unanswered) for each, verdict in verdicts.items()
            }
            return self.outcomes.pop(attempt.attempt.job_id)
        finally:
            self._let_go()
            # As in the executor: from an error lead frames back to here.
            del answer

    def _recall(self) -> None:
        for each in self.all:
            each.recall()

    def understood(self, answer: object) -> object:
        """Return what holds for all jobs that the answer doesn't name: an error where it can't be understood."""
        if not isinstance(answer, ChunkResult):
            return answer
        try:
            self._named = answer.answers(each.job for each in self._ready)
        except Exception as error:
            return error
        return None

    def answer_for(self, attempt: Running, answer: object) -> object:
        """Return what was answered for one of the attempts; an error of all comes before what was said of one."""
        job_id = attempt.attempt.job_id
        if job_id in self._said:
            return self._said[job_id]
        return answer if is_error(answer) else self._named.get(job_id, answer)

    def told(self, attempt: Running, answer: object) -> object:
        """Return what listeners are told was answered for one of the attempts."""
        said = self.answer_for(attempt, answer)
        return said.error if isinstance(said, Discard) else said

    def judge(self, answer: object, decide: Decide) -> dict[Running, Verdict]:
        """Return the verdict on each attempt, of what holds for all and of what was said of each."""
        # The whole is interrupted where the runner stops, or the first job was lost.
        interrupted = self.first.interrupted is not None and is_error(answer)
        verdicts: dict[Running, Verdict] = {}
        for each in self.all:
            said = self.answer_for(each, answer)
            unseen = each not in self._ready and not is_error(said)
            if not each.asked and (interrupted or unseen):
                verdicts[each] = given_back(each.attempt)
            elif isinstance(said, Discard):
                verdicts[each] = _last(each, said.error, decide)
            else:
                verdicts[each] = decide(each, said)
        return verdicts

    def hide(self, error: BaseException) -> None:
        """Take what is not to be seen of the args of any job out of the messages of an error, which may tell of all."""
        if id(error) not in self._cleared and (secrets := self._hidden()):
            from oban_sa.jobs import redaction

            redaction.clear(error, secrets)
            self._cleared[id(error)] = error

    def hidden(self, said: str) -> str:
        """Return a text without what is not to be seen of the args of any job."""
        secrets = self._hidden()
        if not secrets:
            return said
        from oban_sa.jobs import redaction

        return redaction.without(said, secrets)

    def _hidden(self) -> list[str]:
        if self._secrets is None:
            self._secrets = []
            if hiding := [each for each in self.all if each.hides]:
                from oban_sa.jobs import redaction

                self._secrets = redaction.longest_first(
                    secret for each in hiding for secret in redaction.secrets(each.job.args, each.attempt.meta)
                )
        return self._secrets

    def fail(self, error: BaseException) -> None:
        """Have all that were added fail of an error."""
        self.outcomes = {each.attempt.job_id: Outcome(each, judge(each.attempt, error)) for each in self.added}

    def given_back(self) -> dict[Running, Verdict]:
        """Return the verdicts where the code's writes were rolled back, since one of the jobs was lost."""
        return {each: given_back(each.attempt) for each in self.all}

    def others(self, verdicts: Mapping[Running, Verdict]) -> Others:
        """Return the verdicts on those that were added, for the session's commit."""
        metas = [each.attempt.meta or {} for each in self.added]
        return Others(
            [verdicts[each] for each in self.added],
            noting=any(LANE in meta for meta in metas),
            telling=any(RELAY in meta for meta in metas),
        )

    def _let_go(self) -> None:
        """Keep what is still to be written, and nothing of what the code was given and has said."""
        self._ready, self._said, self._named, self._secrets, self._cleared = [], {}, {}, None, {}


def _last(attempt: Running, error: BaseException, decide: Decide) -> Verdict:
    """Return the verdict on an attempt that is to be the last one."""
    kept = attempt.attempt
    attempt.attempt = kept._replace(max_attempts=kept.attempt)
    try:
        return decide(attempt, error)
    finally:
        attempt.attempt = kept
