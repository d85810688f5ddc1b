"""Check out an order, approve it, and wait for what comes of it: `python -m examples.checkout [ORDER] [CENTS]`.

A runner works meanwhile, also elsewhere: `python -m oban_sa.runner --queues orders:5 --import examples.checkout.jobs`.
"""

from __future__ import annotations

import asyncio

import click
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from examples.checkout.jobs import checkout, metadata
from oban_sa import Oban, enqueue, signal
from oban_sa.client.progress import Progress
from oban_sa.errors import RelayTimeout


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("order", type=int, default=7)
@click.argument("cents", type=int, default=300)
@click.option("--by-hand", is_flag=True, help="Leave the approval to you: at a terminal, by `jobs signal`.")
@click.option("--database-url", envvar="OBAN_DATABASE_URL", required=True, show_envvar=True, metavar="URL")
def command(order: int, cents: int, *, by_hand: bool, database_url: str) -> None:
    """Check out ORDER, 7 by default, for CENTS, 300 by default; 13 cents fail once on the way.

    A runner works on it: python -m oban_sa.runner --queues orders:5 --import examples.checkout.jobs
    """
    try:
        asyncio.run(main(order, cents, by_hand=by_hand, url=database_url))
    except RelayTimeout as error:
        raise click.ClickException(f"{error}; does a runner work on the queue orders?") from error


async def main(order: int, cents: int, *, by_hand: bool, url: str) -> None:
    """Enqueue the checkout and its approval in one transaction, as a test order may; then wait."""
    engine = create_async_engine(make_url(url).set(drivername="postgresql+asyncpg"))
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    sessions = async_sessionmaker(engine, expire_on_commit=False)
    async with sessions.begin() as session:
        job = enqueue(session, checkout.new(order, cents))
        if not by_hand:
            signal(session, job, "approval", True)
    if by_hand:
        click.echo(f"Job {job.id} waits for you: python -m oban_sa jobs signal {job.id} approval true")
    try:
        within = "1 day" if by_hand else "1 minute"
        click.echo(await Oban(engine).relay(job, within=within, on_progress=show))
    finally:
        await engine.dispose()


def show(said: Progress) -> None:
    """Print how far the job is."""
    click.echo(f"{said.done:.0%} {said.note}")


if __name__ == "__main__":
    command(prog_name="python -m examples.checkout")
