"""`python -m examples.flask_app.tables` makes the application's own table. Yours is made by Alembic, most likely."""

from __future__ import annotations

from examples.flask_app.database import engine
from examples.flask_app.models import Base

if __name__ == "__main__":
    Base.metadata.create_all(engine)  # what does not exist yet; the jobs' tables have to be there
