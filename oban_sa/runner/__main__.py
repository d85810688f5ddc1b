"""`python -m oban_sa.runner`: a process that works on jobs until it is told to stop."""

from __future__ import annotations

from oban_sa.service.command import main

if __name__ == "__main__":
    main()
