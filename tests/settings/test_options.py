"""A setting is written in its row and where it is used, and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass, fields
from inspect import Parameter, signature
from pathlib import Path

import pytest
from click import UsageError
from click.testing import CliRunner

from oban_sa import Runner
from oban_sa.errors import InvalidOption
from oban_sa.service.command import command as runner
from oban_sa.service.usage import Grouped, flags
from oban_sa.settings import settings
from oban_sa.settings.option import flag, option, rows
from oban_sa.settings.options import INTERVAL
from oban_sa.settings.settings import Settings, keyword, load, to_keywords
from tests.public import readme


@dataclass(frozen=True, slots=True, kw_only=True)
class More(Settings):
    """One row more."""

    shout_every: float = option(2.0, INTERVAL, "Noise", "Time between shouts", runner=True)


def test_a_new_row_makes_everything_but_its_use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = Grouped("runner", params=[*flags(rows(More))])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(settings, "Settings", More)
    monkeypatch.setattr(readme, "runner", command)

    def read(environ: dict[str, str], *words: str) -> list[str]:
        given = command.make_context("runner", list(words)).params
        (line,) = [line for line in load(environ=environ, flags=given).described() if line.startswith("shout_every")]
        return line.split()

    assert read({}) == ["shout_every", "2", "default"]
    (tmp_path / "oban.toml").write_text("shout_every = 3")
    assert read({}) == ["shout_every", "3", "oban.toml:", "shout_every"]
    assert read({"OBAN_SHOUT_EVERY": "4"}) == ["shout_every", "4", "OBAN_SHOUT_EVERY"]
    assert read({"OBAN_SHOUT_EVERY": "4"}, "--shout-every", "5 s") == ["shout_every", "5", "--shout-every"]
    with pytest.raises(InvalidOption, match=r"^--shout-every: 0 seconds is no interval; write for example 1"):
        read({}, "--shout-every", "0")
    with pytest.raises(InvalidOption, match=r"^shout_every: 0 seconds is no interval; write for example 1"):
        keyword("shout_every", 0)
    assert to_keywords(More(shout_every=6))["shout_every"] == 6
    assert (
        "Noise:\n  --shout-every SECONDS  Time between shouts; 2. [OBAN_SHOUT_EVERY]"
        in CliRunner().invoke(command, ["--help"]).output
    )
    assert "| `--shout-every SECONDS` | Time between shouts; 2. [`OBAN_SHOUT_EVERY`] |" in readme.settings()


def test_every_setting_and_every_keyword_of_a_runner_has_its_row() -> None:
    known = {each.field: each for each in rows(Settings)}
    assert known.keys() == {each.name for each in fields(Settings)} - {"origins"}
    parameters = signature(Runner).parameters.values()
    taken = {each.name: each.default for each in parameters if each.kind is Parameter.KEYWORD_ONLY}
    # A registry is made in Python and no source could name one.
    assert taken.keys() - {"registry"} == {each.name for each in known.values() if each.keyword or each.kind.imported}
    defaults = to_keywords(Settings()) | {"schema": Settings().schema, "queues": None, "node": None}
    assert {name: taken[name] for name in defaults} == defaults


def test_switches_need_no_value_and_other_flags_do() -> None:
    def read(word: str) -> object:
        return runner.make_context("runner", [word]).params[word.strip("-").replace("-", "_")]

    for each in rows(Settings):
        for word in each.words if each.stands_in("flag") else ():
            if each.kind.metavar is None:
                assert read(flag(word)) is True
            elif each.kind.bare is not None:
                assert read(flag(word)) == each.kind.bare
            else:
                with pytest.raises(UsageError, match="requires an argument"):
                    read(flag(word))


def test_no_word_means_two_settings() -> None:
    words = [word for each in rows(Settings) for word in each.words]
    assert len(words) == len(set(words))
