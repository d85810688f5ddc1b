"""A module as processes of jobs import it, which configures logging as programs do."""

from __future__ import annotations

import logging.config
import multiprocessing

if multiprocessing.parent_process() is not None:
    logging.getLogger("oban_sa.inside")
    logging.config.dictConfig({"version": 1, "root": {"handlers": [], "level": "INFO"}})
