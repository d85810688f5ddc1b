"""Functions of ours in the database, for the versions that make them; like these they import no models."""
