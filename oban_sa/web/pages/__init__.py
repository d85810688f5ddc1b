"""The pages: one module for each, which reads what it shows and does what its forms ask for."""
