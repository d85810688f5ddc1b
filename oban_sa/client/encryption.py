"""What the client does with encrypted args: seal those that it changes, and seal all anew once there is another key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, cast
from uuid import UUID

from sqlalchemy import RowMapping, Select, case, literal

from oban_sa.client.transactions import Transactions, Work
from oban_sa.errors import InvalidJob, KeyMissing
from oban_sa.jobs import encryption, values
from oban_sa.jobs.hidden import ENCRYPTED
from oban_sa.jobs.values import JSONDict
from oban_sa.sql.control import by_ids, lock_to_seal
from oban_sa.sql.encryption import find, find_callbacks, lock, lock_callbacks, reseal, reseal_callbacks
from oban_sa.sql.fetch import jobs

LIMIT: Final = 1_000
"""Jobs that one transaction looks at."""

_CONCERNED: Final = frozenset({"args", "meta", "worker"})
"""The columns by which args are read, or not."""


@dataclass(frozen=True, slots=True)
class Resealed:
    """What has become of the jobs that an older key had sealed.

    `resealed` are sealed with the newest key now. `left` were executing, or locked: another time finds them.
    `unreadable` are the ids of those that no key of this process reads; they stay as they are.
    """

    resealed: int = 0
    left: int = 0
    unreadable: tuple[int, ...] = ()

    def and_(self, other: Resealed) -> Resealed:
        """Return both together."""
        return Resealed(self.resealed + other.resealed, self.left + other.left, (*self.unreadable, *other.unreadable))


class EncryptionControl:
    """The method that seals jobs anew."""

    _transactions: Transactions

    async def reseal_jobs(self, *, on_progress: Callable[[Resealed], object] | None = None) -> Resealed:
        """Encrypt the args of all encrypted jobs with the newest key, so that older ones can be taken away.

        Callbacks of batches, which are no jobs yet, are encrypted too, and counted as such. Goes through the tables by
        ids, in transactions of a thousand jobs each, and may be stopped and begun again at any time. Jobs that are
        executing, or locked, are left out; run it until none is `left`. Args of encrypted jobs that another program
        wrote in the clear are encrypted too. `on_progress` is called after each transaction of jobs. Raises
        `KeyMissing` where this process has no key.
        """
        key = encryption.newest()
        found, batch = Resealed(), UUID(int=0)
        while True:  # before the jobs, for a callback that is made meanwhile is one of these
            made, each = await self._transactions.run(lambda work, batch=batch: _reseal_callbacks(work, key, batch))  # type: ignore[misc]
            if made is None:
                break
            batch = made
            found = found.and_(each)
        after = 0
        while True:
            last, each = await self._transactions.run(lambda work, after=after: _reseal(work, key, after))  # type: ignore[misc]
            if last is None:
                return found
            after = last
            found = found.and_(each)
            if on_progress is not None:
                on_progress(found)


def _reseal(work: Work, key: str, after: int) -> tuple[int | None, Resealed]:
    row = work.execute(find(work.schema), {"after": after, "limit": LIMIT, "key": key}).mappings().one()
    ids: list[int] = row["ids"] or []
    if not ids:
        return row["last"], Resealed()
    locked = work.execute(lock(work.schema), {"ids": ids, "key": key}).mappings().all()
    sealed: dict[int, str] = {}
    unreadable: list[int] = []
    for each in locked:
        try:
            sealed[each["id"]] = _anew(each)
        except KeyMissing:
            unreadable.append(each["id"])
    if sealed:
        work.execute(reseal(work.schema), {"ids": list(sealed), "args": list(sealed.values())})
    return row["last"], Resealed(len(sealed), len(ids) - len(locked), tuple(unreadable))


def _reseal_callbacks(work: Work, key: str, after: UUID) -> tuple[UUID | None, Resealed]:
    given = {"after": after, "limit": LIMIT, "key": key}
    ids = list(work.execute(find_callbacks(work.schema), given).scalars())
    if not ids:
        return None, Resealed()
    locked = work.execute(lock_callbacks(work.schema), {"ids": ids, "key": key}).mappings().all()
    sealed: dict[UUID, str] = {}
    count = 0
    for each in locked:
        callbacks = values.from_json(each["callbacks"])
        for made in callbacks.values():
            try:
                if made["meta"].get(ENCRYPTED) is True:
                    made["args"] = _sealed_anew(made["worker"], made["args"])
                    count += 1
            except KeyMissing:  # which the job that is made of it will tell of
                continue
        sealed[each["id"]] = values.dumps(callbacks)
    if sealed:
        work.execute(reseal_callbacks(work.schema), {"ids": list(sealed), "callbacks": list(sealed.values())})
    return ids[-1], Resealed(count, len(ids) - len(locked))


def _anew(row: RowMapping) -> str:
    return values.dumps(_sealed_anew(row["worker"], values.from_json(row["args"])))


def _sealed_anew(worker: str, args: object) -> JSONDict:
    if not values.is_object(args):
        raise KeyMissing("these args are no object")  # and none of ours
    plain = encryption.unseal(worker, args) if encryption.is_sealed(args) else args
    return encryption.seal(worker, plain)


def concerns(columns: Mapping[str, object]) -> bool:
    """Whether a change of these columns may touch what is encrypted."""
    return not columns.keys().isdisjoint(_CONCERNED)


def sealed(
    work: Work, wanted: Select[int], given: Mapping[str, object], columns: Mapping[str, object]
) -> tuple[Select[int], dict[str, object], dict[str, object]]:
    """Lock the jobs of a change: the SELECT of them and its parameters, and the columns as their rows will have them.

    Args of those that are encrypted are sealed, each by itself. Raises `KeyMissing` where no key is there for that, and
    `InvalidJob` where the change would leave args that can't be read.
    """
    rows = work.execute(lock_to_seal(wanted), given).mappings().all()
    chosen = {**given, "ids": [row["id"] for row in rows]}
    secret = [row for row in rows if row[ENCRYPTED]]
    if not secret:
        return by_ids(), chosen, dict(columns)
    meta = columns.get("meta")
    if meta is not None and cast("Mapping[str, object]", meta).get(ENCRYPTED) is not True:
        raise InvalidJob(
            f"job {secret[0]['id']} is encrypted, and its args could not be read without that in its meta; "
            f"write changes={{'meta': {{..., {ENCRYPTED!r}: True}}}}"
        )
    if "args" not in columns:
        if "worker" in columns and any(row["worker"] != columns["worker"] for row in secret):
            raise InvalidJob(
                f"the args of job {secret[0]['id']} are encrypted for {secret[0]['worker']}, and no other worker reads "
                "them; change its args too: changes={'worker': ..., 'args': {...}}"
            )
        return by_ids(), chosen, dict(columns)
    args = cast("Mapping[str, object]", columns["args"])
    made = {
        row["id"]: literal(encryption.seal(str(columns.get("worker", row["worker"])), args), jobs.c.args.type)
        for row in secret
    }
    plain = literal(args, jobs.c.args.type)
    return by_ids(), chosen, {**columns, "args": case(made, value=jobs.c.id, else_=plain)}
