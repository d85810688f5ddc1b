"""Versions of arguments: what rows say of theirs, and how a worker reads those before its own."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Worker, job, worker
from oban_sa.errors import InvalidArguments, InvalidOption
from oban_sa.models import Job
from oban_sa.workers import Registry, definition_of


async def run(target: Any, made: Job) -> Any:
    answer = definition_of(target).call(made)
    return await answer if inspect.isawaitable(answer) else answer


@pytest.fixture
def registry() -> Registry:
    return Registry()


@dataclass
class Welcome:
    user_id: int
    greeting: str


def upgraded(args: dict[str, Any], version: int) -> dict[str, Any]:
    if version < 2:
        args["user_id"] = args.pop("user")
    if version < 3:
        args["greeting"] = "hi"
    return args


@pytest.fixture
def send(registry: Registry) -> Any:
    @worker(registry=registry, version=3)
    class Send(Worker[Welcome]):
        upgrade = staticmethod(upgraded)

        async def process(self, args: Welcome, job: Job) -> Any:
            return args, job.args

    return Send


@pytest.fixture
def welcome(registry: Registry) -> Any:
    @job(registry=registry, version=3, upgrade=upgraded, meta={"team": "mail"})
    async def welcome(job: Job, user_id: int, greeting: str) -> Any:
        return Welcome(user_id, greeting), job.args

    return welcome


def test_a_job_says_its_version_where_that_is_not_the_first(send: Any, welcome: Any, registry: Registry) -> None:
    @job(registry=registry, version=1)
    async def first(a: int) -> None: ...

    assert first.new(1).meta == {}
    assert send.new(Welcome(1, "hi")).meta == {"args_version": 3}
    assert send.new(Welcome(1, "hi"), meta={"by": "me"}).meta == {"by": "me", "args_version": 3}
    assert send.new(Welcome(1, "hi"), meta=None, priority=1).meta == {"args_version": 3}
    assert welcome.new(1, "hi").meta == {"team": "mail", "args_version": 3}
    assert welcome.options(priority=3).new(1, "hi").meta == {"team": "mail", "args_version": 3}
    assert definition_of(welcome).options.for_job()["meta"] == {"team": "mail", "args_version": 3}


@pytest.mark.parametrize("kind", ["send", "welcome"])
async def test_rows_of_earlier_versions_are_upgraded_and_the_job_keeps_what_its_row_says(
    kind: str, request: pytest.FixtureRequest
) -> None:
    target = request.getfixturevalue(kind)
    for args, meta in (
        ({"user": 7}, None),
        ({"user": 7}, {"args_version": 1}),
        ({"user_id": 7}, {"args_version": 2}),
        ({"user_id": 7, "greeting": "hi"}, {"args_version": 3}),
    ):
        assert await run(target, Job("w", args=dict(args), meta=meta)) == (Welcome(7, "hi"), args)


async def test_what_an_upgrade_makes_is_validated(welcome: Any) -> None:
    with pytest.raises(InvalidArguments, match=r"^welcome: args.user_id must be a whole number, not 'seven'$"):
        await run(welcome, Job("w", args={"user": "seven"}))


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        (
            {"args_version": 4},
            "welcome: args are of version 4, and this worker reads none later than 3; its program is",
        ),
        ({"args_version": "3"}, "welcome: meta.args_version must be a whole number from 1, not '3'"),
        ({"args_version": 0}, "welcome: meta.args_version must be a whole number from 1, not 0"),
        ({"args_version": True}, "welcome: meta.args_version must be a whole number from 1, not True"),
    ],
)
async def test_rows_of_later_versions_are_never_guessed_at(welcome: Any, meta: Any, message: str) -> None:
    with pytest.raises(InvalidArguments) as refused:
        await run(welcome, Job("w", args={"user_id": 1, "greeting": "hi"}, meta=meta))
    assert str(refused.value).startswith(message)


async def test_a_worker_without_versions_reads_no_later_one_either(registry: Registry) -> None:
    @job(registry=registry)
    async def first(a: int) -> int:
        return a

    with pytest.raises(InvalidArguments, match="args are of version 2, and this worker reads none later than 1"):
        await run(first, Job("w", args={"a": 1}, meta={"args_version": 2}))


async def test_an_upgrade_that_gives_no_dict_is_told_of(registry: Registry) -> None:
    @job(registry=registry, version=2, upgrade=lambda args, version: None)  # type: ignore[arg-type, return-value]
    async def first(a: int) -> int:
        return a

    with pytest.raises(InvalidArguments, match=r"first: upgrade\(args, 1\) gave None instead of a dict"):
        await run(first, Job("w", args={"a": 1}))


async def test_what_an_upgrade_raises_is_its_own(registry: Registry) -> None:
    def broken(args: dict[str, Any], version: int) -> dict[str, Any]:
        return {"a": args["b"]}

    @job(registry=registry, version=2, upgrade=broken)
    async def first(a: int) -> int:
        return a

    with pytest.raises(KeyError):
        await run(first, Job("w", args={"a": 1}))


def test_half_a_version_is_refused(registry: Registry) -> None:
    async def plain(a: int) -> None: ...

    async def later(args: dict[str, Any], version: int) -> dict[str, Any]:
        return args

    for options, message in (
        ({"version": 2}, r"version=2 and nothing that reads the rows of version 1; write upgrade\(args, version\)"),
        ({"version": 2}, r"and give it to the function: @job\(version=2, upgrade=upgrade\)"),
        ({"upgrade": upgraded}, "has an upgrade, but version 1 is the first"),
        ({"version": 2, "upgrade": lambda args: args}, r"takes the args and their version: `def upgrade"),
        ({"version": 2, "upgrade": later}, "is async, but only makes a dict of another"),
        ({"version": 2, "upgrade": 7}, "upgrade is a function of args and their version, not 7"),
        ({"version": 0}, "version is a whole number from 1, not 0"),
        ({"version": "2"}, "version is a whole number from 1, not '2'"),
        ({"version": True}, "version is a whole number from 1, not True"),
    ):
        with pytest.raises(InvalidOption, match=message):
            job(registry=registry, **options)(plain)  # type: ignore[call-overload]


def test_the_upgrade_of_a_class_needs_no_instance(registry: Registry) -> None:
    class Bound(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

        def upgrade(self, args: dict[str, Any], version: int) -> dict[str, Any]:
            return args

    class Without(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

        @classmethod
        def upgrade(cls, args: dict[str, Any], version: int) -> dict[str, Any]:
            return args

    class OnlyJob(Worker[Welcome]):
        async def process(self, job: Job) -> None: ...

        upgrade = staticmethod(upgraded)

    class OfItsOwn(Worker[Welcome]):
        async def process(self, args: Welcome) -> None: ...

        def upgrade(self) -> None:
            """Something else altogether."""

    with pytest.raises(InvalidOption, match=r"takes the args and their version, and no instance: `@staticmethod`"):
        worker(registry=registry, version=2)(Bound)
    with pytest.raises(InvalidOption, match=r"has an upgrade, but version 1 is the first .* write version=2"):
        worker(registry=registry)(Without)
    with pytest.raises(InvalidOption, match="both a method upgrade and the option upgrade"):
        worker(registry=registry, version=2, upgrade=upgraded)(Without)
    with pytest.raises(InvalidOption, match="doesn't take its args, so what upgrade makes of them would reach nobody"):
        worker(registry=registry, version=2)(OnlyJob)
    assert worker(registry=registry, version=2)(Without).new(Welcome(1, "x")).meta == {"args_version": 2}
    assert worker(registry=registry)(OfItsOwn).new(Welcome(1, "x")).meta == {}


async def test_a_version_and_mapped_objects_go_together(registry: Registry) -> None:
    from tests.arguments.mapped import User

    @job(
        registry=registry, version=2, upgrade=lambda args, version: {"user": {"entity": "User", "id": args["user_id"]}}
    )
    async def welcome(session: AsyncSession, user: User) -> Any:
        return user

    class Sync:
        def get(self, cls: Any, key: Any, **options: Any) -> Any:
            return cls, key

    class Session:
        async def run_sync(self, fn: Any) -> Any:
            return fn(Sync())

    made = definition_of(welcome).call(Job("w", args={"user_id": 7}), Session())  # type: ignore[arg-type]
    assert await made == (User, (7,))
