"""The runner's own connections, and what their errors mean."""
