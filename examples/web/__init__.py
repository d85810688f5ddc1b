"""Web applications that enqueue jobs: `fastapi_app.py` with async sessions, `flask_app.py` with plain ones."""
