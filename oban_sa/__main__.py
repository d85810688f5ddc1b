"""`python -m oban_sa`, which is also installed as `oban-sa`."""

from __future__ import annotations

import sys

from oban_sa.cli import group


def main() -> None:
    """Run the command line with this process's arguments."""
    # The name that was typed, so that what the help says can be typed again.
    group.main(prog_name="python -m oban_sa" if sys.argv[0].endswith("__main__.py") else "oban-sa")


if __name__ == "__main__":
    main()
