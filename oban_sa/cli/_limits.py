"""The options of `queues limit`: what the words on the command line mean, and how they are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias, cast

import click

from oban_sa.errors import InvalidOption
from oban_sa.jobs.limits import MOST_AT_ONCE, SETTINGS, QueueLimits, Rate, decisions_as_json, read_rate

NONE: Final = "none"


Read: TypeAlias = Callable[[str], object]
Callback: TypeAlias = Callable[[click.Context, click.Parameter, str | None], object]


def read(meaning: Read) -> Callback:
    """Return the callback of an option that says what its word means."""

    def callback(ctx: click.Context, param: click.Parameter, value: str | None) -> object:
        try:
            return None if value is None else meaning(value)
        except InvalidOption as error:
            raise click.BadParameter(str(error), ctx=ctx, param=param) from None

    return callback


def read_weights(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, int]:
    """Return what a repeatable option says of partitions, by key."""
    try:
        return dict(_weight(each) for each in value)
    except InvalidOption as error:
        raise click.BadParameter(str(error), ctx=ctx, param=param) from None


def number(text: str) -> object:
    """Read a number of jobs."""
    if text.lower() == NONE:
        return NONE
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_AT_ONCE:
        raise InvalidOption(f"{text!r} is no number from 1 to {MOST_AT_ONCE}; write for example 5, or none")
    return int(text)


def rate(text: str) -> object:
    """Read a rate."""
    return NONE if text.lower() == NONE else read_rate(text)


def by(text: str) -> object:
    """Read what the limits of a queue are by."""
    if text.lower() == NONE:
        return NONE
    decisions_as_json({"by": text})
    return text


def _weight(text: str) -> tuple[str, int]:
    key, equals, number = text.rpartition("=")
    if not equals or not number.isascii() or not number.isdigit():
        raise InvalidOption(f"{text!r} is no partition and its weight; write for example acme=3")
    return key, int(number)


def decided(given: Mapping[str, object], *, off: bool, reset: bool) -> QueueLimits:
    """Return the limits that the options name; raises `InvalidOption` where they contradict each other."""
    limits: dict[str, object] = {
        name: None if given[name] == NONE else given[name] for name in SETTINGS if given[name] is not None
    }
    if weights := given["weights"]:
        if limits.get("fair") is False:
            raise InvalidOption(
                "--weight says how many jobs a partition has in a turn, and with --no-fair none is taken"
            )
        limits["fair"] = weights
    if off or reset:
        if off and reset:
            raise InvalidOption("--off takes the limits away and --reset brings those of the settings back; give one")
        if limits:
            raise InvalidOption(
                f"{'--off' if off else '--reset'} is about all limits of the queue; leave the others out"
            )
        limits = {"global_limit": None, "by": None, "each": None, "rate": None, "burst": False, "fair": True}
    elif not limits:
        raise InvalidOption("which limit? Write for example --global 30, --each 5, --rate 60/minute, --off or --reset")
    decisions_as_json(limits)
    return cast("QueueLimits", limits)


def as_written(limits: QueueLimits) -> dict[str, object]:
    """Return limits as JSON."""
    return decisions_as_json(cast("Mapping[str, object]", limits))


def in_words(limits: QueueLimits) -> str:
    """Return limits as a list for people: `global_limit 30, rate 60 in 1 minute`."""
    return ", ".join(f"{name} {_shown(value)}" for name, value in limits.items())


def _shown(value: object) -> str:
    match value:
        case None:
            return NONE
        case bool():
            return "on" if value else "off"
        case Mapping():
            return " ".join(f"{key}={weight}" for key, weight in cast("Mapping[str, int]", value).items())
        case Rate():
            return f"{value}"
        case _:
            return str(value)
