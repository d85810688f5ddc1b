"""A line of small bars for each queue: the attempts that ended in each of the last minutes, and those that failed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, cast

from markupsafe import Markup
from sqlalchemy.ext.asyncio import AsyncSession

from oban_sa.sql.sparklines import MINUTES, ended

MOST_QUEUES: Final = 200
"""Queues whose minutes are read for one page."""

_FAILED: Final = frozenset({"retryable", "discarded"})
_WIDTH: Final = 3
_HEIGHT: Final = 18


@dataclass(slots=True)
class Sparkline:
    """Attempts that ended in each of the last minutes, the oldest first, and how many of these failed."""

    ended: list[int] = field(default_factory=lambda: [0] * MINUTES)
    failed: list[int] = field(default_factory=lambda: [0] * MINUTES)

    def add(self, ago: int, outcomes: object) -> None:
        """Add what one node counted in the minute that began `ago` minutes before this one."""
        if not isinstance(outcomes, Mapping) or not 0 <= ago < MINUTES:
            return
        for state, count in cast("Mapping[str, object]", outcomes).items():
            # Any program may have written there.
            if isinstance(count, int) and not isinstance(count, bool) and count > 0:
                self.ended[MINUTES - 1 - ago] += count
                self.failed[MINUTES - 1 - ago] += count if state in _FAILED else 0

    @property
    def text(self) -> str:
        """The same in words."""
        all_of_them, failed = sum(self.ended), sum(self.failed)
        attempts = "1 attempt" if all_of_them == 1 else f"{all_of_them:,} attempts"
        return f"{attempts} ended in the last {MINUTES} minutes, {failed:,} failed"

    def svg(self) -> Markup:
        """Return a drawing: a bar a minute, as high as its share of the highest; what failed is at the foot."""
        most = max(self.ended)
        bars: list[Markup] = []
        for at, (count, failed) in enumerate(zip(self.ended, self.failed, strict=True)):
            if count:
                # Nothing that happened is too low to be seen.
                height = max(1.0, _HEIGHT * count / most)
                foot = max(1.0, height * failed / count) if failed else 0.0
                bars.append(_bar(at, _HEIGHT - height, height - foot, ""))
                bars.append(_bar(at, _HEIGHT - foot, foot, "failed"))
        width = MINUTES * _WIDTH
        return Markup(
            '<svg class="spark" viewBox="0 0 {} {}" width="{}" height="{}" role="img" aria-label="{}">'
            "<title>{}</title>{}</svg>"
        ).format(width, _HEIGHT, width, _HEIGHT, self.text, self.text, Markup("").join(bars))


def _bar(at: int, y: float, height: float, kind: str) -> Markup:
    if height <= 0:
        return Markup("")
    return Markup('<rect{} x="{}" y="{:.1f}" width="{}" height="{:.1f}"/>').format(
        Markup(' class="{}"').format(kind) if kind else Markup(""), at * _WIDTH, y, _WIDTH - 1, height
    )


async def sparklines(session: AsyncSession, queues: Sequence[str]) -> dict[str, Sparkline]:
    """Return those of queues in which attempts ended of late, as far as runners have counted them."""
    found: dict[str, Sparkline] = {}
    if queues:
        rows = await session.execute(ended(), {"queues": list(queues[:MOST_QUEUES])})
        for row in rows:
            found.setdefault(row.queue, Sparkline()).add(int(row.ago), row.outcomes)
    return found
