"""An order, whose receipt is another job: written by the order's own session, in the order's own trace."""

from __future__ import annotations

from sqlalchemy.ext.asyncio import AsyncSession

from examples.tracing import spans
from oban_sa import job

# Jobs that are enqueued by jobs carry their trace too.
spans.install()


@job(queue="default")
async def place_order(session: AsyncSession, number: int) -> None:
    """Place an order and have its receipt sent once that is certain."""
    with spans.span("reserve"):
        send_receipt.enqueue(session, number)
        await session.flush()


@job(queue="default", max_attempts=2)
def send_receipt(number: int) -> None:
    """Send a receipt; it runs in a thread."""
    with spans.span("render"):
        if number < 0:
            raise ValueError(f"there is no order {number}")
