"""Very many jobs at once: streamed by COPY, or made by the database from the rows of a query."""
