"""As an application's set-up: it replaces every handler of the root logger."""

import logging

logging.basicConfig(level=logging.WARNING, force=True)
