"""What the catalog of a database says of our tables: their version, and what is missing. Needs no Alembic."""
