"""What everything costs beside a table full of jobs that are over."""
