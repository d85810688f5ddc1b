"""Workflows, steps and signals: what they cost beside plain jobs, and beside others that have such things.

`scenarios` says what is measured, `turns` and `waiting` play oban_sa's part, and `filling` writes the workflows and
checks afterwards that they are over. Others are in `benchmarks.peers`: `chancy_flows` and `dbos`.
"""
