"""What a visitor's rights leave of a search, so that no statement reads what may not be seen."""

from __future__ import annotations

from dataclasses import replace

from oban_sa.client.filters import Filters
from oban_sa.client.query import paths
from oban_sa.errors import InvalidOption
from oban_sa.web.page import Page
from oban_sa.web.redact import is_hidden, without_redacted


def allowed(page: Page, filters: Filters) -> Filters:
    """Return filters within the queues of a visitor; raises `InvalidOption` where they ask for what is hidden."""
    access = page.access
    if not access.see_errors and any(term.of == "error" for term in filters.wanted.terms):
        raise InvalidOption("you may not see errors, nor search by them")
    found = paths(filters)
    for term in found:
        if not access.see_args:
            raise InvalidOption("you may not see args and meta, nor search by them")
        if is_hidden(page.instance.redact, term):
            raise InvalidOption("what this asks for is hidden on all pages, and so it can't be searched by either")
    unless = tuple(each for term in found for each in without_redacted(term))
    if unless:
        filters = replace(filters, wanted=replace(filters.wanted, terms=(*filters.wanted.terms, *unless)))
    return within(filters, access.queues)


def within(filters: Filters, queues: frozenset[str] | None) -> Filters:
    """Return filters that find jobs of these queues only; None leaves them as they are."""
    if queues is None:
        return filters
    wanted = filters.wanted
    left = set(wanted.queues) & queues if wanted.queues else queues
    # No queue has an empty name, so that nothing is found where none is left.
    return replace(filters, wanted=replace(wanted, queues=tuple(sorted(left)) or ("",)))
