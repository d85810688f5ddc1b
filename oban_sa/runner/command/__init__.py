"""The runner as a process: its database, its loop, its signals, its log, and how it ends."""
