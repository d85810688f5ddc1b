"""A tracing integration made of public parts alone: a trace goes from whoever enqueues a job to the job, and on.

    python -m oban_sa migrate
    python -m examples.tracing                 # enqueues an order inside a span, and prints its trace
    python -m oban_sa.runner --import examples.tracing.jobs --middleware examples.tracing.spans:trace --until-idle

All three read OBAN_DATABASE_URL. `spans.py` is the integration: a hook writes the current span into a job's meta, a
middleware continues it there. One for OpenTelemetry or Sentry has the same two functions, with the library's own spans.
"""
