"""Reports, built in the background: Flask with plain sessions. See README.md beside this file."""
