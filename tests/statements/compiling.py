"""Statements as the runner sends them."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql import asyncpg

from oban_sa.models import schema_map
from oban_sa.runner.settling import ACKING_ONE
from oban_sa.sql import (
    acking,
    fetching,
    holding,
    idling,
    inquiring,
    keeping,
    kindred,
    leading,
    notifying,
    producing,
    rescuing,
    staging,
    steering,
    unknown,
)

STATEMENTS: dict[str, Any] = {
    "fetching": fetching.fetching(),
    "fetching_known": fetching.fetching(unknown.known()),
    "reviewing": unknown.reviewing(),
    "acking": acking.acking(),
    "acking_and_fetching": acking.acking_and_fetching(),
    "completing_and_fetching": acking.completing_and_fetching(),
    "acking_one": ACKING_ONE,
    "inquiring": inquiring.inquiring(),
    "inquiring_held": inquiring.inquiring_held(),
    "idling": idling.idling(),
    "noting": acking.noting(),
    "holding": holding.holding(),
    "keeping": keeping.keeping(),
    "reverting": keeping.reverting(),
    "called_off": steering.called_off(),
    "others_seen": kindred.others_seen(),
    "peers_lead": kindred.peers_lead(),
    "our_nodes": kindred.our_nodes(),
    "unheard": holding.unheard(),
    "staging": staging.staging(),
    "unfinished": staging.unfinished(unknown.known()),
    "registering": producing.registering(),
    "beating": producing.beating(),
    "leaving": producing.leaving(),
    "electing": leading.electing(),
    "leading": leading.leading(),
    "resigning": leading.resigning(),
    "dead": rescuing.dead(),
    "restoring": rescuing.restoring(),
    "rescuing": rescuing.rescuing(),
    "burying": rescuing.burying(),
    "abandoned": rescuing.abandoned(peers_known=True),
    "abandoned_without_peers": rescuing.abandoned(peers_known=False),
    "backdating": rescuing.backdating(),
    "beaten": rescuing.beaten(),
    "exhausted": rescuing.exhausted(),
    "notify": notifying.NOTIFY,
}
"""What a runner sends again and again."""


def compiled(statement: Any, schema: str = "public") -> tuple[str, list[str], dict[str, Any]]:
    """Its text, the names of its parameters in order, and the values of those that are constant."""
    found = statement.compile(
        dialect=asyncpg.dialect(), schema_translate_map=schema_map(schema) or None, render_schema_translate=True
    )
    return str(found), list(found.positiontup or ()), dict(found.params)
