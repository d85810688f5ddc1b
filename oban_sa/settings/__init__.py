"""The settings of a runner, and where they are read from."""
