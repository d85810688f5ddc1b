"""Other job queues on PostgreSQL, each as its own documentation has it, in an environment of its own.

Every module here is run by another Python than ours and imports nothing of ours but `benchmarks.turn` and
`benchmarks.peers.lone`, which need the standard library alone.
"""
