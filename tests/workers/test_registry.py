"""Names in rows, and the code that they mean."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from oban_sa.errors import InvalidOption, ObanError, WorkerNotFound
from oban_sa.workers import Registry, definition_of, job, registry, worker
from tests.support import ROOT


@pytest.fixture
def registry_of_one() -> Registry:
    mine = Registry()

    @worker(registry=mine, name="shop.mail.SendWelcome", aliases=["shop.old.SendWelcome"])
    class SendWelcome:
        async def process(self) -> None: ...

    return mine


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `shopfront` that can be imported, and is forgotten afterwards with its workers."""
    folder = tmp_path / "shopfront"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registry, "_definitions", dict(registry._definitions))
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("shopfront", "shopfront_evil"):
            del sys.modules[name]


SENDER = """
from oban_sa.workers import worker

@worker
class Send:
    async def process(self): ...

class Inside:
    @worker
    class Deep:
        async def process(self): ...
"""


def test_a_worker_is_registered_as_module_and_qualified_name() -> None:
    @worker
    class Local:
        async def process(self) -> None: ...

    name = f"{__name__}.test_a_worker_is_registered_as_module_and_qualified_name.<locals>.Local"
    assert definition_of(Local).name == name
    assert registry.find(name) is definition_of(Local)
    assert Local.new().worker == name


def test_a_name_of_its_own_and_aliases_are_found(registry_of_one: Registry) -> None:
    found = registry_of_one.find("shop.mail.SendWelcome")
    assert registry_of_one.find("shop.old.SendWelcome") is found
    assert found.target.new().worker == "shop.mail.SendWelcome"
    assert list(registry_of_one) == [found]
    assert "shop.old.SendWelcome" in registry_of_one


def test_workers_of_one_registry_are_not_in_another(registry_of_one: Registry) -> None:
    assert "shop.mail.SendWelcome" not in registry


@pytest.mark.parametrize("name", ["shop.mail.SendWelcom", "elsewhere.entirely.SendWelcome"])
def test_a_missing_worker_is_answered_with_similar_names(registry_of_one: Registry, name: str) -> None:
    with pytest.raises(WorkerNotFound, match=rf"'{name}'; similar: shop\.") as caught:
        registry_of_one.find(name)
    assert isinstance(caught.value, LookupError)


@pytest.mark.parametrize("name", ["MyApp.Worker", "Elixir.MyApp.Worker", "", ".", "a..b", "os", "os.system", "../etc"])
def test_names_of_other_kinds_are_simply_not_found(registry_of_one: Registry, name: str) -> None:
    with pytest.raises(WorkerNotFound, match="no worker is registered as"):
        registry_of_one.find(name, allow=["shopfront"])


def test_an_empty_registry_says_that_modules_must_be_imported() -> None:
    with pytest.raises(WorkerNotFound, match="--import"):
        Registry().find("shop.mail.SendWelcome")


def test_nothing_is_imported_unless_its_module_is_allowed(package: Path) -> None:
    (package / "mail.py").write_text(SENDER)
    for allow in ([], ["shopfront.mai"], ["shop"], ["shopfront.mail.deeper"], ["shopfront_evil"]):
        with pytest.raises(WorkerNotFound):
            registry.find("shopfront.mail.Send", allow)
        assert "shopfront" not in sys.modules


@pytest.mark.parametrize("allow", ["shopfront", "shopfront.mail"])
@pytest.mark.parametrize("name", ["shopfront.mail.Send", "shopfront.mail.Inside.Deep"])
def test_an_allowed_module_is_imported_for_its_worker(package: Path, allow: str, name: str) -> None:
    (package / "mail.py").write_text(SENDER)
    mine = Registry()
    with pytest.raises(WorkerNotFound):
        mine.find(name, [allow])  # imported, but its workers are in the default registry
    assert registry.find(name, [allow]).name == name


def test_a_neighbour_whose_name_begins_the_same_is_not_allowed(package: Path) -> None:
    (package.parent / "shopfront_evil.py").write_text(SENDER)
    with pytest.raises(WorkerNotFound):
        registry.find("shopfront_evil.Send", ["shopfront"])
    assert "shopfront_evil" not in sys.modules


def test_a_program_is_never_run_by_a_row(package: Path) -> None:
    (package / "__main__.py").write_text("raise SystemExit('ran')")
    with pytest.raises(WorkerNotFound):
        registry.find("shopfront.__main__.Send", ["shopfront"])


@pytest.mark.parametrize("text", ["import missing_thing", "1 / 0", "this is no python"])
def test_a_module_that_fails_to_import_is_told_as_the_reason(package: Path, text: str) -> None:
    (package / "mail.py").write_text(text)
    with pytest.raises(WorkerNotFound, match=r"importing 'shopfront\.mail'.*failed") as caught:
        registry.find("shopfront.mail.Send", ["shopfront"])
    assert caught.value.__cause__ is not None


def test_a_reloaded_module_replaces_its_workers(package: Path) -> None:
    (package / "mail.py").write_text(SENDER)
    module = importlib.import_module("shopfront.mail")
    first = registry.find("shopfront.mail.Send")
    importlib.reload(module)
    assert registry.find("shopfront.mail.Send") is not first
    assert registry.find("shopfront.mail.Send").target is module.Send


def test_two_workers_can_not_share_a_name(registry_of_one: Registry) -> None:
    with pytest.raises(InvalidOption, match=r"'shop\.old\.SendWelcome' of .*other already means .*SendWelcome; give"):

        @job(registry=registry_of_one, name="shop.new.other", aliases=["shop.old.SendWelcome"])
        def other() -> None: ...

    assert "shop.new.other" not in registry_of_one


def test_a_name_too_long_for_the_table_is_refused_with_advice() -> None:
    with pytest.raises(InvalidOption, match=r'at most 127 .*; give Long another: name="..."'):

        @worker(name="x" * 128)
        class Long:
            async def process(self) -> None: ...


@pytest.mark.parametrize("name", ["", "  ", "a\0b", 7])
def test_names_that_the_table_can_not_hold_are_refused(name: str) -> None:
    with pytest.raises(InvalidOption, match="the name of a worker"):

        @job(name=name)
        def anything() -> None: ...


def test_a_text_of_aliases_is_refused() -> None:
    with pytest.raises(InvalidOption, match=r"write aliases=\['old'\]"):

        @job(aliases="old")
        def anything() -> None: ...


PROGRAM = """
from oban_sa.workers import worker, definition_of

@worker
class Send:
    async def process(self): ...

if __name__ == "__main__":
    print(definition_of(Send).name)
"""


def _ran(*arguments: str, cwd: Path) -> str:
    ran = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={"PYTHONPATH": f"{ROOT}:{cwd}"}, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout.strip()


def test_a_program_writes_jobs_that_an_import_of_it_finds(tmp_path: Path) -> None:
    (tmp_path / "myapp.py").write_text(PROGRAM)
    (tmp_path / "pkg" / "sub").mkdir(parents=True)
    for path in ("pkg/__init__.py", "pkg/sub/__init__.py"):
        (tmp_path / path).write_text("")
    (tmp_path / "pkg" / "sub" / "jobs.py").write_text(PROGRAM)
    (tmp_path / "pkg" / "__main__.py").write_text(PROGRAM)

    assert _ran("myapp.py", cwd=tmp_path) == "myapp.Send"
    assert _ran("-m", "myapp", cwd=tmp_path) == "myapp.Send"
    assert _ran("pkg/sub/jobs.py", cwd=tmp_path) == "pkg.sub.jobs.Send"
    assert _ran("-m", "pkg.sub.jobs", cwd=tmp_path) == "pkg.sub.jobs.Send"
    assert _ran("-m", "pkg", cwd=tmp_path) == "pkg.__main__.Send"
    (tmp_path / "spaced").mkdir()
    (tmp_path / "spaced" / "jobs.py").write_text(PROGRAM)
    assert _ran("-m", "spaced.jobs", cwd=tmp_path) == "spaced.jobs.Send"
    assert _ran("-c", PROGRAM, cwd=tmp_path) == "__main__.Send"


def test_a_program_that_imports_itself_does_not_clash_with_itself(tmp_path: Path) -> None:
    (tmp_path / "myapp.py").write_text(f"{PROGRAM}    import myapp\n")
    assert _ran("myapp.py", cwd=tmp_path) == "myapp.Send"


def test_errors_of_the_registry_are_errors_of_the_library() -> None:
    assert issubclass(WorkerNotFound, ObanError)


# The same name twice


def test_a_function_that_makes_workers_is_refused_to_make_two_of_one_name() -> None:
    def make(sent: list[str]) -> Any:
        @job(registry=mine)
        def send(to: str) -> None:
            sent.append(to)

        return send

    mine = Registry()
    first = make([])
    with pytest.raises(
        InvalidOption, match=r"make\.<locals>\.send' already means another .*test_registry\.py:\d+.*f\""
    ) as e:
        make([])
    assert "each needs a name of its own" in str(e.value)
    assert mine.find(first.new("x").worker).target is first


def test_a_decorator_that_hides_names_is_told_of_wraps() -> None:
    def logged(function: Callable[..., None]) -> Any:
        def wrapper(*args: Any, **kwargs: Any) -> None:
            function(*args, **kwargs)

        return wrapper

    mine = Registry()

    @job(registry=mine)
    @logged
    def charge() -> None: ...

    with pytest.raises(InvalidOption, match=r"logged seems to be a decorator; write @functools\.wraps\(function\)"):

        @job(registry=mine)
        @logged
        def refund() -> None: ...

    assert mine.find(charge.new().worker).target is charge


TWICE = """
from oban_sa.workers import job, worker
@job
def send() -> None: ...
@job
def send(to: str) -> None: ...
"""

TWICE_A_CLASS = """
from oban_sa.workers import worker
for number in (1, 2):
    @worker
    class Send:
        limit = number
        def process(self): ...
"""


@pytest.mark.parametrize("text", [TWICE, TWICE_A_CLASS])
def test_a_name_that_a_module_gives_twice_is_refused(package: Path, text: str) -> None:
    (package / "twice.py").write_text(text)
    with pytest.raises(
        InvalidOption, match=r"already means another .*, at .*twice\.py:\d, whose jobs would run .*name="
    ):
        importlib.import_module("shopfront.twice")


def test_what_does_the_same_may_be_defined_again() -> None:
    mine = Registry()

    def make(number: int = 1) -> Any:
        @worker(registry=mine)
        class Send:
            limits = (number, "a")

            def __init__(self) -> None:
                super().__init__()

            def process(self, *, most: int = number) -> int:
                return number

        return Send

    assert make() is not make()
    for number in (2, True, 1.0):
        with pytest.raises(InvalidOption):
            make(number)  # type: ignore[arg-type]


FACTORY = """
from oban_sa.workers import job
def make(answer):
    @job
    def send():
        return answer
    return send
"""


def test_a_module_that_calls_a_factory_can_be_reloaded(package: Path) -> None:
    (package / "factory.py").write_text(FACTORY)
    (package / "uses.py").write_text("from shopfront.factory import make\nsend = make([])\n")
    uses = importlib.import_module("shopfront.uses")
    before = uses.send
    for again in (importlib.reload, lambda module: importlib.import_module(sys.modules.pop(module.__name__).__name__)):
        uses = again(uses)
        assert registry.find("shopfront.factory.make.<locals>.send").target is uses.send is not before
        before = uses.send
    with pytest.raises(InvalidOption):
        uses.make([])


def test_cells_of_a_notebook_and_examples_of_a_doctest_may_define_a_worker_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "_definitions", dict(registry._definitions))
    cell = "from oban_sa.workers import job\n@job\ndef typed_at_a_prompt():\n    return {}\n"
    scope: dict[str, Any] = {"__name__": "a_notebook"}
    for answer in (1, 2):
        exec(compile(cell.format(answer), "<cell>", "exec"), scope)
    assert registry.find("a_notebook.typed_at_a_prompt").target() == 2
