"""The versions of the tables; each file serves as an Alembic revision and as a step of `op.upgrade_oban`."""
