"""How a runner is: its checks, the server that answers them, and the lag of its event loop."""
