"""A shop that is busy, so that the dashboard has something to show: `make dashboard-demo`."""
