"""A session's unit of work, extended by jobs: they are written, announced and taken back with its own data."""
