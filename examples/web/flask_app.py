"""Flask with plain sessions on psycopg. Django Ninja, Bottle, Pyramid, a script: the call is the same.

    python -m oban_sa migrate
    python -m oban_sa.runner --import examples.web.jobs --queues mailers:5      # beside the server
    flask --app examples.web.flask_app run

All three read OBAN_DATABASE_URL.
"""

from __future__ import annotations

import os
from typing import Any

from flask import Flask, abort, request
from sqlalchemy import create_engine, make_url
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import sessionmaker

from examples.web.jobs import send_welcome
from examples.web.models import Base, User
from oban_sa import Job, enqueue, ref


def create_app() -> Flask:
    """Make the application; Flask calls this by itself."""
    app = Flask(__name__)
    engine = create_engine(make_url(os.environ["OBAN_DATABASE_URL"]).set(drivername="postgresql+psycopg"))
    Base.metadata.create_all(engine)
    app.extensions["engine"] = engine
    sessions = sessionmaker(engine, expire_on_commit=False)

    @app.post("/users")
    def sign_up() -> tuple[dict[str, int], int]:
        email = request.form["email"]
        try:
            with sessions.begin() as session:
                user = User(email=email)
                session.add(user)
                job = enqueue(session, send_welcome.new(ref(user)))
        except IntegrityError:
            abort(409, f"{email} has signed up already")
        return {"user": user.id, "job": job.id}, 201

    @app.get("/users/<int:user_id>")
    def show_user(user_id: int) -> dict[str, Any]:
        with sessions() as session:
            user = session.get(User, user_id) or abort(404, "no such user")
            return {"email": user.email, "welcomed": user.welcomed}

    @app.get("/jobs/<int:job_id>")
    def show_job(job_id: int) -> dict[str, Any]:
        with sessions() as session:
            job = session.get(Job, job_id) or abort(404, "no such job")
            return {"worker": job.worker, "state": job.state, "attempt": job.attempt, "errors": job.errors}

    return app
