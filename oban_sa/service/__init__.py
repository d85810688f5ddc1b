"""A runner as an operating system process: flags, signals, logs, and several processes."""
