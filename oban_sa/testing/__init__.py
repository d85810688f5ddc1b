"""What an application's own tests need: code of a job run by itself, jobs drained in place, questions about them.

Jobs made in tests are ordinary rows, written by the test's own session; nothing runs before `drain`, or `inline` around
the code under test. All of it works inside a transaction that the test rolls back.
"""

from __future__ import annotations

from oban_sa.testing.assertions import all_enqueued, assert_enqueued, refute_enqueued
from oban_sa.testing.drain import drain
from oban_sa.testing.inline import Ran, inline
from oban_sa.testing.perform import perform_job

__all__ = ["Ran", "all_enqueued", "assert_enqueued", "drain", "inline", "perform_job", "refute_enqueued"]
