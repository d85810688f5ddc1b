"""Random faults from a seed, against real runners and a PostgreSQL of their own, and a check of every promise after.

`make chaos SEEDS=20` runs it; `python -m tests.acceptance.chaos --help` says what else there is.
"""
