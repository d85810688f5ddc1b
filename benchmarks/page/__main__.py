"""`python -m benchmarks.page`."""

from __future__ import annotations

import sys

from benchmarks.page import main

if __name__ == "__main__":
    main(sys.argv[1:])
