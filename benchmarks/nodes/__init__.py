"""Lone jobs, and the processes that enqueue them and run them."""
