"""What a job is, in plain Python: its states, answers, verdicts, values, and rules about them."""
