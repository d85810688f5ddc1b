"""What the nodes of a cluster tell each other, and how they learn which of them live."""
