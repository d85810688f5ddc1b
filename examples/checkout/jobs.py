"""The checkout: each step runs once, whatever dies between them."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, Integer, MetaData, String, Table, insert
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa import Record, current_job, job, progress, sleep, step, wait_for

metadata = MetaData()
bookings = Table(
    "checkout_bookings",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("order_id", Integer, nullable=False),
    Column("payment", String, nullable=False),
)


@dataclass
class Payment:
    """What the payment service says."""

    id: str
    cents: int


@job(queue="orders", max_attempts=10, backoff=lambda _: 1)
async def checkout(session: AsyncSession, order_id: int, cents: int) -> Record:
    """Charge, book, cool down, and ship once somebody has approved."""
    payment = await step("charge", charge, order_id, cents=cents, attempts=3)
    await progress(0.3, "charged")
    await step.commit(session, "book", book, order_id, payment)
    if current_job().attempt == 1 and cents == 13:
        raise RuntimeError("an unlucky order fails here once, and is neither charged nor booked again")
    await progress(0.6, "booked")
    await sleep("cool down", "1 second")
    answer = await wait_for("approval", within="1 day")
    if answer is None or answer.payload is not True:
        await step("refund", refund, payment)
        return Record({"shipped": False, "payment": payment.id})
    return Record({"shipped": True, "payment": payment.id})


async def charge(order_id: int, *, cents: int) -> Payment:
    """Ask the payment service; the key of its own makes a repeated request harmless."""
    key = f"{current_job().id}-charge"
    print(f"charging order {order_id} with {cents} cents, key {key}", flush=True)
    return Payment(id=f"pay-{order_id}", cents=cents)


async def book(session: AsyncSession, order_id: int, payment: Payment) -> None:
    """Write the booking; it is committed together with the line in the journal."""
    await session.execute(insert(bookings).values(order_id=order_id, payment=payment.id))


async def refund(payment: Payment) -> None:
    """Give the money back."""
    print(f"refunding {payment.id}", flush=True)
