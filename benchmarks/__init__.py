"""How fast it is, beside a floor and other queues.

The run: `__main__` chooses from `scenarios`; `contest` lets contenders take turns, each a process that plays a `turn`,
and reads `gauges` meanwhile; `results` are kept, and `page` makes docs/performance.md of them. `ground` has the server,
and `environments` the Python of each contender.

The contenders: `bare` is the floor, `ours` is oban_sa, and `peers` are other queues. Their turns share `filling` (jobs
to be drained), `shares` (drains by several processes), `nodes` (lone jobs; one node and many), `command` (the runner as
a command), `working` (a runner that drains) and `writing` (jobs that arrive all the time). `flows` has workflows, steps
and signals. Turns of oban_sa against itself have modules of their own: `application`, `effects`, `announcing` with
`writers`, `blocking` with `beside`.

Programs of their own: `full` (a very large table), `pruning`, `cron_differences`.
"""
