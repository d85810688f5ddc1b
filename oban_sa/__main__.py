"""`python -m oban_sa`, which is also installed as `oban-sa`."""

from __future__ import annotations

import sys

from oban_sa.cli import group
from oban_sa.service import garbage
from oban_sa.service.early_signals import begun


def main() -> None:
    """Run the command line with this process's arguments."""
    # The name that was typed, so that what the help says can be typed again.
    name = "python -m oban_sa" if sys.argv[0].endswith("__main__.py") else "oban-sa"
    begun()
    garbage.imported()
    try:
        group.main(prog_name=name)
    finally:
        # Not imported here: the help is to be quick, and what was never imported has left nothing behind.
        if leaving := sys.modules.get("oban_sa.service.exit"):
            leaving.leave_if_stuck(sys.exc_info()[1])


if __name__ == "__main__":
    main()
