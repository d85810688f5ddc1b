"""`python -m oban_sa.runner`: how soon it begins its first job, and how fast it drains."""
