"""One queue on one node, from the fetch to the ack."""
