"""Code on the event loop, in threads and in processes, and the ways to interrupt it."""
