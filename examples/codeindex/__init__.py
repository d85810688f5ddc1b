"""An index of every function and class in a folder of Python code, made by jobs.

    python -m examples.codeindex

`models.py` has the tables, `parsing.py` the work itself, `jobs.py` the workers, `indexing.py` what asks for the work,
`screen.py` what is seen of it, and `__main__.py` the command. The files are a batch: when the last of them has ended,
it makes the job that reports. `flow.py` has the same as a workflow, whose first member finds the files; `--workflow`
takes that one.
"""
