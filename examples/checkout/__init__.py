"""A checkout that charges once, books exactly once, and waits for an approval without a slot."""
