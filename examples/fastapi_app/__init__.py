"""Reports, built in the background: FastAPI with asynchronous sessions. See README.md beside this file."""
