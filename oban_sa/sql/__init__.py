"""Statements: functions from values to SQLAlchemy constructs. No session, no input, no output."""
