"""Text for people: about exceptions and functions, warnings with the caller's line, foreign text made safe to show."""
