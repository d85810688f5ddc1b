"""The functions in SQL that fetches within limits call; migrations make them, and so does `metadata.create_all`."""
