"""The database session of an attempt, which commits a worker's writes with its job's outcome."""
