"""Statements as runners and applications send them."""

from __future__ import annotations

from typing import Any

from sqlalchemy.dialects.postgresql import asyncpg

from oban_sa.jobs.keys import Paths
from oban_sa.models import schema_map
from oban_sa.sql import (
    ack,
    activity,
    attempt_age,
    called_off,
    chunk,
    claim,
    family,
    fence,
    insert,
    lease,
    limits,
    look,
    notify,
    producers,
    rank,
    rates,
    rescue,
    slots,
    stage,
    unknown_workers,
)
from oban_sa.sql.plan import Plan

PLAN = Plan()
"""Without filters and followers."""

LIMITED = Plan(filters=(limits.GLOBAL, rates.RATE))
WEIGHTED = Plan(filters=(rates.WEIGHTED,))

STATEMENTS: dict[str, Any] = {
    "fetch": PLAN.fetch(),
    "fetch_known": PLAN.with_filter(unknown_workers.only_known()).fetch(),
    "review": unknown_workers.review(),
    "ack": PLAN.ack(),
    "ack_and_fetch": PLAN.ack_and_fetch(),
    "complete_and_fetch": PLAN.complete_and_fetch(),
    "ack_one": PLAN.ack_one(),
    "commit_status": fence.commit_status(),
    "is_held": fence.is_held(),
    "idle": activity.idle(),
    "note_error": ack.note_error(),
    "held": fence.held(),
    "keep_young": attempt_age.keep_young(),
    "revert": attempt_age.revert(),
    "called_off": called_off.called_off(),
    "others_seen": family.others_seen(),
    "peers_lead": family.peers_lead(),
    "our_nodes": family.our_nodes(),
    "unheard": fence.unheard(),
    "stage": stage.stage(),
    "unfinished": stage.unfinished(unknown_workers.known()),
    "register": producers.register(),
    "beat": producers.beat(),
    "leave": producers.leave(),
    "rank": rank.rank(),
    "elect": lease.elect(),
    "lock_lease": lease.lock_lease(),
    "resign": lease.resign(),
    "dead": rescue.dead(),
    "restore": rescue.restore(),
    "rescue": rescue.rescue(),
    "bury": rescue.bury(),
    "abandoned": rescue.abandoned(peers_known=True),
    "abandoned_without_peers": rescue.abandoned(peers_known=False),
    "backdate": rescue.backdate(),
    "beaten": rescue.beaten(),
    "exhausted": rescue.exhausted(),
    "fetch_within_limits": LIMITED.fetch(),
    "complete_and_fetch_within_limits": LIMITED.complete_and_fetch(),
    "fetch_by_weight": WEIGHTED.fetch(),
    "take_slot": slots.take(),
    "keep_slots": slots.keep(),
    "give_slot_back": slots.give_back(),
    "fetch_chunk": chunk.fetch_chunk(None),
    "fetch_chunk_by_key": chunk.fetch_chunk(Paths.read(("args.tenant", "worker"), what="by")),
    "notify": notify.NOTIFY,
    "look": look.look(enough=16_384),
}
"""What a runner sends again and again."""

INSERTS: dict[str, Any] = {
    "insert_one": insert.inserting_values("one", returning=True, notifying=True),
    "insert_alike": insert.inserting_values("alike", returning=True, notifying=True),
    "insert_alike_unheard": insert.inserting_values("alike", returning=True, notifying=False),
    "insert_alike_counted": insert.inserting_values("alike", returning=False, notifying=True),
    "insert_alike_unheard_counted": insert.inserting_values("alike", returning=False, notifying=False),
    "insert_different": insert.inserting_values("different", returning=True, notifying=True),
    "insert_one_claimed": insert.inserting_values("one", returning=True, notifying=True, with_ids=True),
    "insert_different_claimed": insert.inserting_values("different", returning=True, notifying=True, with_ids=True),
    "claim_one": claim.claiming(single=True),
    "claim_one_and_join": claim.claiming(frozenset({"share"}), single=True),
    "claim_many": claim.claiming(),
    "claim_many_join_and_replace": claim.claiming(frozenset({"share", "update"})),
}
"""What applications send."""


def compiled(statement: Any, schema: str = "public") -> tuple[str, list[str], dict[str, Any]]:
    """Its text, the names of its parameters in order, and the values of those that are constant."""
    found = statement.compile(
        dialect=asyncpg.dialect(), schema_translate_map=schema_map(schema) or None, render_schema_translate=True
    )
    return str(found), list(found.positiontup or ()), dict(found.params)
