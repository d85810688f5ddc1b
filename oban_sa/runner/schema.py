"""Are the tables there, and are they ours? A runner asks as the client does."""

from __future__ import annotations

from oban_sa.client.verifying import verify as verify
