"""Entries of the crontab are paused and resumed by their names."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from oban_sa import Oban
from oban_sa.errors import InvalidOption
from oban_sa.models import Cron


async def stored(engine: AsyncEngine, *names: str) -> None:
    async with engine.begin() as connection:
        for name in names:
            await connection.execute(
                Cron.__table__.insert().values(
                    name=name, expression="@daily", worker="app.Report", timezone="Etc/UTC", opts={}
                )
            )


async def names(oban: Oban) -> list[str]:
    return [each.name for each in await oban.check_cron_pauses()]


async def test_an_entry_is_paused_until_it_is_resumed(engine: AsyncEngine) -> None:
    await stored(engine, "nightly", "hourly")
    oban = Oban(engine)
    await oban.pause_cron("nightly")
    [pause] = await oban.check_cron_pauses()
    assert pause.name == "nightly"
    await oban.pause_cron("nightly")
    assert await oban.check_cron_pauses() == [pause]  # since the first time
    await oban.resume_cron("nightly")
    await oban.resume_cron("nightly")
    assert await names(oban) == []


async def test_two_may_pause_one_entry_at_once(engine: AsyncEngine) -> None:
    await stored(engine, "nightly")
    oban = Oban(engine)
    await asyncio.gather(*(oban.pause_cron("nightly") for _ in range(8)))
    assert await names(oban) == ["nightly"]


async def test_a_pause_is_part_of_the_session_it_is_given(
    engine: AsyncEngine, sessions: async_sessionmaker[AsyncSession]
) -> None:
    await stored(engine, "nightly")
    oban = Oban(engine)
    async with sessions() as session:
        await oban.pause_cron("nightly", session=session)
        await session.rollback()
    assert await names(oban) == []
    async with sessions.begin() as session:
        await oban.pause_cron("nightly", session=session)
    assert await names(oban) == ["nightly"]


async def test_an_instance_pauses_its_own_entries(engine: AsyncEngine) -> None:
    await stored(engine, "nightly", "billing: nightly")
    billing = Oban(engine, name="billing")
    await billing.pause_cron("nightly")
    assert await names(billing) == ["nightly"]
    assert await names(Oban(engine)) == ["billing: nightly"]


@pytest.mark.parametrize("method", ["pause_cron", "resume_cron"])
async def test_an_unknown_entry_is_refused_with_those_there_are(engine: AsyncEngine, method: str) -> None:
    change = getattr(Oban(engine), method)
    with pytest.raises(InvalidOption, match="there is no crontab entry 'nightly', nor any other; entries are known"):
        await change("nightly")
    await stored(engine, "nightly", *(f"entry {number:02}" for number in range(25)))
    with pytest.raises(InvalidOption) as refused:
        await change("nighty")
    assert str(refused.value).startswith("there is no crontab entry 'nighty'; there are entry 00, entry 01")
    assert str(refused.value).endswith("entry 19 and 6 more; did you mean 'nightly'?")


@pytest.mark.parametrize("name", ["", " ", None, 7])
async def test_what_is_no_name_is_refused(engine: AsyncEngine, name: object) -> None:
    with pytest.raises(InvalidOption, match="an entry is named as `cron list` shows it"):
        await Oban(engine).pause_cron(name)  # type: ignore[arg-type]


async def test_a_pause_whose_entry_is_stored_no_longer_can_be_ended(engine: AsyncEngine) -> None:
    await stored(engine, "nightly")
    oban = Oban(engine)
    await oban.pause_cron("nightly")
    async with engine.begin() as connection:
        await connection.execute(Cron.__table__.delete())
    await oban.resume_cron("nightly")
    assert await names(oban) == []
