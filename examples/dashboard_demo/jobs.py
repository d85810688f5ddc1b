"""The jobs of the shop: most succeed, some fail and are tried again, a few are given up."""

from __future__ import annotations

import asyncio
import random

from oban_sa import Record, job


class CardDeclined(Exception):
    """The bank said no."""


async def _work(least: float, most: float) -> None:
    await asyncio.sleep(random.uniform(least, most))


@job(queue="mailers", name="shop.SendMail")
async def send_mail(to: str, template: str) -> None:
    """Send a mail; the server for mail is away now and then."""
    await _work(0.05, 0.4)
    if random.random() < 0.08:
        raise ConnectionError(f"mail.example.com refused the connection while sending {template!r} to {to}")


@job(queue="payments", name="shop.Charge", max_attempts=3)
async def charge(order: dict[str, int], token: str) -> Record[str]:
    """Charge a card; some are declined again and again, and given up."""
    await _work(0.2, 0.9)
    if order["id"] % 11 == 0:
        raise CardDeclined(f"the card of order {order['id']} was declined")
    return Record(f"receipt-{order['id']}")


@job(queue="reports", name="shop.BuildReport")
async def build_report(month: str) -> None:
    """Build a report, which takes its time."""
    await _work(3, 8)


@job(queue="default", name="shop.SyncStock")
async def sync_stock(warehouse: str) -> None:
    """Read what a warehouse has."""
    await _work(0.1, 1.5)


@job(queue="default", name="shop.Import")
async def import_part(part: str) -> None:
    """Import a part of a catalogue."""
    await _work(0.5, 2.5)
    if part == "prices":
        raise ValueError("row 118 of prices.csv has no currency")
