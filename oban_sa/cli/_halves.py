"""Change jobs of which a rule of the application's refuses some, such as a unique index: all others are changed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from oban_sa.printable import line
from oban_sa.runner.disconnects import is_refused, unwrapped


def words(error: BaseException) -> str:
    """Say on one line what the database refused, with the detail that it gave."""
    return line(" ".join(str(unwrapped(error)).split()))


async def by_halves(ids: Sequence[int], change: Callable[[list[int]], Awaitable[int]]) -> tuple[int, dict[int, str]]:
    """Change all of these jobs but those that the database refuses: how many were, and by id what it said of the rest.

    Raises whatever is no refusal.
    """
    changed, refused = 0, dict[int, str]()
    parts = [list(ids)]
    while parts:
        part = parts.pop()
        try:
            changed += await change(part)
        except Exception as error:
            if not is_refused(error):
                raise
            if len(part) == 1:
                refused[part[0]] = words(error)
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
    return changed, refused
