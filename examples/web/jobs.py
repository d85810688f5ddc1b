"""What happens after the response: the same for both applications.

python -m oban_sa.runner --import examples.web.jobs --queues mailers:5
"""

from __future__ import annotations

import logging

from sqlalchemy.orm import Session

from examples.web.models import User
from oban_sa import Cancel, Job, Result, job

logger = logging.getLogger(__name__)


@job(queue="mailers", max_attempts=5, timeout="1 minute")
def send_welcome(job: Job, session: Session, user_id: int) -> Result:
    """Welcome a new user, once.

    It is a plain function, so it runs in a thread and may block, as most libraries that send mail do. The runner has an
    asynchronous driver only; it hands out a `Session` all the same.
    """
    user = session.get(User, user_id)
    if user is None:
        return Cancel("the user has left meanwhile")
    # A mail can't be taken back when a transaction is. Give the service a key it can recognise a repetition by.
    logger.info("a mail to %s, with the key welcome-%s", user.email, job.id)
    user.welcomed = True
    return None
