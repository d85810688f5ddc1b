from __future__ import annotations

import base64
import gzip
import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oban_sa.errors import InvalidOption
from oban_sa.wire import messages
from oban_sa.wire.messages import PLAIN_LIMIT, addressed, channel, decode, encode, ident
from tests.strategies import json_objects, texts


def packed(payload: object) -> str:
    # Without a moment in it: the processes that share the tests compare what each has collected.
    return base64.b64encode(gzip.compress(json.dumps(payload).encode(), mtime=0)).decode()


# Channels


def test_a_channel_is_named_after_its_schema():
    assert channel("public", "insert") == "public.oban_insert"
    assert channel("jobs", "signal") == "jobs.oban_signal"


def test_a_schema_whose_channels_postgresql_would_refuse_is_refused_by_name():
    assert len(channel("x" * 49, "cronitor")) == 63
    for schema in ("x" * 50, "ü" * 25):
        with pytest.raises(InvalidOption, match=r"is too long to notify in.*at most 49 bytes"):
            channel(schema, "cronitor")


# Encoding


@given(json_objects)
def test_what_was_sent_is_what_is_read(payload):
    assert decode(encode(payload)) == payload


@given(json_objects)
def test_the_older_forms_of_the_family_are_read_too(payload):
    assert decode(json.dumps(payload)) == payload
    assert decode(json.dumps(payload, indent=2)) == payload
    assert decode(packed(payload)) == payload
    assert decode(packed(payload).rstrip("=")) == payload
    assert decode("Z:" + packed(payload)) == payload


def test_a_message_is_plain_json_as_long_as_it_fits():
    padding = PLAIN_LIMIT - len(encode({"pad": ""}))
    fits = encode({"pad": "x" * padding})
    assert json.loads(fits) == {"pad": "x" * padding}
    longer = encode({"pad": "x" * (padding + 1)})
    assert longer.startswith("H4sI")  # what every member of the family knows as compressed
    assert json.loads(gzip.decompress(base64.b64decode(longer))) == {"pad": "x" * (padding + 1)}


def test_bytes_are_what_is_counted_for_that_is_what_postgresql_counts():
    assert encode({"pad": "ü" * (PLAIN_LIMIT // 2)}).startswith("H4sI")


def test_the_same_message_is_always_the_same_text_so_that_postgresql_can_fold_duplicates():
    assert encode({"pad": "x" * 9_000}) == encode({"pad": "x" * 9_000})
    moment = base64.b64decode(encode({"pad": "x" * 9_000}))[4:8]
    assert moment == bytes(4)


def test_a_message_that_does_not_fit_even_compressed_is_refused():
    noise = [pow(7, n, 2**61 - 1) for n in range(1000)]
    with pytest.raises(ValueError, match="NOTIFY carries 7999; split it"):
        encode({"noise": noise})


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "hello", "null", "1", "[]", '[{"queue":"a"}]', '"queue"', "{", '{"queue":', "{'queue': 1}",
        '{"a":NaN}',
        "Z:", "Z:{}", "Z:hello", "H4sI", "H4sIAAAA", "=====", "ключ", "\0", "\ud800", '{"a":"\ud800"}',
        base64.b64encode(b"{}").decode(),
        base64.b64encode(gzip.compress(b"hello", mtime=0)).decode(),
        base64.b64encode(gzip.compress(b"\xff", mtime=0)).decode(),
        packed([1]),
        packed({"queue": "a"})[:-8],
        base64.b64encode(gzip.compress(b'{"queue":"a"}', mtime=0)[:-4]).decode(),
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"a":"' + "x" * 1_000_000 + '"}',
        packed({"queue": "a"})[:12] + "!" + packed({"queue": "a"})[12:],
        None, b"{}", 7,
    ],
    ids=lambda text: repr(text)[:30],
)  # fmt: skip
def test_oddities_are_nothing(text):
    assert decode(text) is None


@given(st.text())
@example("Z:Z:" + packed({}))
def test_no_text_whatever_raises(text):
    assert decode(text) is None or isinstance(decode(text), dict)


@given(json_objects, st.data())
def test_a_damaged_message_never_raises(payload, data):
    text = packed(payload)
    at = data.draw(st.integers(0, len(text) - 1))
    decoded = decode(text[:at] + data.draw(st.characters()) + text[at + 1 :])
    assert decoded is None or decoded == payload


def test_a_small_message_that_unfolds_to_gigabytes_is_nothing(monkeypatch):
    bomb = base64.b64encode(gzip.compress(b'{"a":"' + b"x" * 50_000_000 + b'"}', mtime=0)).decode()
    made = []
    real = messages.zlib.decompressobj

    class Watched:
        def __init__(self, *options):
            self._real = real(*options)

        def decompress(self, *options):
            plain = self._real.decompress(*options)
            made.append(len(plain))
            return plain

        @property
        def eof(self):
            return self._real.eof

    monkeypatch.setattr(messages.zlib, "decompressobj", Watched)
    assert decode(bomb) is None
    assert made
    assert max(made) <= 1_000_000


# What is said


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (messages.insert("a"), {"queue": "a"}),
        (messages.pause("a"), {"action": "pause", "queue": "a", "ident": "any"}),
        (messages.pause("*", ident="Oban.n"), {"action": "pause", "queue": "*", "ident": "Oban.n"}),
        (messages.resume("a"), {"action": "resume", "queue": "a", "ident": "any"}),
        (messages.scale("a", 5), {"action": "scale", "queue": "a", "ident": "any", "limit": 5}),
        (
            messages.scale("a", 5, ident="Oban.n", node="n"),
            {"action": "scale", "queue": "a", "ident": "Oban.n", "limit": 5, "node": "n"},
        ),
        (messages.start("a", 5), {"action": "start", "queue": "a", "ident": "any", "limit": 5}),
        (
            messages.start("a", 5, paused=True),
            {"action": "start", "queue": "a", "ident": "any", "limit": 5, "paused": True},
        ),
        (messages.stop("a", ident="Oban.n"), {"action": "stop", "queue": "a", "ident": "Oban.n"}),
        (messages.pkill(7), {"action": "pkill", "job_id": 7}),
        (messages.resign("Oban", "n"), {"action": "resign", "name": "Oban", "node": "n"}),
    ],
)
def test_signals_have_exactly_the_keys_that_the_family_understands(payload, expected):
    assert payload == expected


def test_an_ident_is_the_name_and_the_node():
    assert ident("Oban", "web.1") == "Oban.web.1"


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({}, True),
        ({"ident": "any"}, True),
        ({"ident": "Oban.web.1"}, True),
        ({"ident": "Oban.web.2"}, False),
        ({"ident": "Other.web.1"}, False),
        ({"ident": "Oban"}, False),
        ({"ident": ""}, False),
        ({"ident": "ANY"}, False),
        ({"ident": None}, False),
        ({"ident": 7}, False),
        ({"ident": ["any"]}, False),
        ({"ident": {"any": 1}}, False),
    ],
)
def test_a_signal_is_for_everyone_or_for_the_node_it_names(wanted, expected):
    assert addressed(wanted, "Oban", "web.1") is expected


@given(texts, texts)
def test_what_is_addressed_to_a_node_reaches_it(name, node):
    assert addressed(messages.pause("q", ident=ident(name, node)), name, node)


@pytest.mark.parametrize("payload", [{}, {"queue": None}, {"queue": ""}, {"queue": 7}, {"queue": ["q"]}])
def test_a_message_about_no_queue_is_refused(payload):
    with pytest.raises(ValueError, match="no queue is named"):
        messages.queue_of(payload)
    assert messages.queue_of(messages.insert("q")) == "q"
