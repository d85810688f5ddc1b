"""The application: `flask --app examples.flask_app.app run`."""

from __future__ import annotations

from typing import Any

from flask import Flask, request
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import joinedload

from examples.flask_app.database import db
from examples.flask_app.jobs import build_report
from examples.flask_app.models import Report
from oban_sa import enqueue, ref

app = Flask(__name__)


@app.teardown_appcontext
def close_session(error: BaseException | None) -> None:
    """Give the request's connection back; what was not committed is rolled back, and no job was ever there."""
    db.remove()


def shown(report: Report) -> dict[str, Any]:
    """Return what clients see; `state` is None once the job was deleted."""
    job = report.job
    return {
        "id": report.id,
        "title": report.title,
        "state": job.state if job is not None else None,
        "progress": 100 if report.text is not None else job.meta.get("progress", 0) if job is not None else 0,
        "text": report.text,
    }


@app.post("/reports")
def order_report() -> tuple[dict[str, Any], int]:
    """Make a report, and the job that builds it: both or neither."""
    title, pages = request.form["title"], request.form.get("pages", 10, type=int)
    report = Report(title=title, pages=pages)
    db.add(report)
    report.job = enqueue(db, build_report.new(ref(report), pages))
    try:
        db.commit()
    except IntegrityError:
        return {"error": f"there is a report {title!r} already"}, 409
    return shown(report), 201


@app.get("/reports/<int:report_id>")
def show_report(report_id: int) -> tuple[dict[str, Any], int]:
    """Show a report; its job is a row like any other, and is joined."""
    report = db.get(Report, report_id, options=[joinedload(Report.job)])
    if report is None:
        return {"error": "no such report"}, 404
    return shown(report), 200
