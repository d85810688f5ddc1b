"""Reports, built in the background: Litestar with the sessions of Advanced Alchemy. See README.md beside this file."""
