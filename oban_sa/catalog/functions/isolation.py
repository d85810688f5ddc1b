"""What limits need of the transaction in which they are asked."""

from __future__ import annotations


def only_read_committed() -> str:
    """Return the statement that refuses any other isolation level.

    The functions are volatile, so each of their queries has a snapshot of its own where the level is READ COMMITTED.
    With any other they would not see what was committed while they waited for a lock.
    """
    return """
            IF pg_catalog.current_setting('transaction_isolation') <> 'read committed' THEN
                RAISE EXCEPTION 'limits of oban_sa hold in READ COMMITTED, and this transaction is %',
                    pg_catalog.upper(pg_catalog.current_setting('transaction_isolation'))
                    USING ERRCODE = 'invalid_transaction_state';
            END IF;
    """
