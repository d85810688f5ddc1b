"""Enqueue an order inside a span."""

from __future__ import annotations

import os
import sys

from sqlalchemy import create_engine, make_url
from sqlalchemy.orm import Session

from examples.tracing.jobs import place_order
from examples.tracing.spans import span
from oban_sa import enqueue


def main() -> None:
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 7
    engine = create_engine(make_url(os.environ["OBAN_DATABASE_URL"]).set(drivername="postgresql+psycopg"))
    with span("checkout") as here, Session(engine) as session, session.begin():
        enqueue(session, place_order.new(number))
    engine.dispose()
    print(here.trace_id)


main()
