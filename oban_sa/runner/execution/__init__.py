"""One attempt at one job."""
