"""How fast it is, beside the floor of the same machine and the same minute."""
