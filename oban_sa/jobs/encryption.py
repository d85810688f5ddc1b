"""Encrypted args: how they stand in a row, and the keys of this process.

AES-GCM with 256 bits, a random nonce for each job, and the name of the worker as what is authenticated with it, so that
args that are moved to the row of another worker can't be read there. The id of the key stands before them: which key
reads a row is looked up, and not tried.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from binascii import Error as NotBase64
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from oban_sa.describe.exceptions import describe
from oban_sa.errors import InvalidOption, KeyMissing
from oban_sa.jobs import values
from oban_sa.jobs.values import JSONDict

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

DATA: Final = "data"
"""The one arg that such a row has: `<id of the key>:<base64 of nonce and text>`."""

VARIABLE: Final = "OBAN_KEYS"
FILE: Final = "OBAN_KEYS_FILE"
_NONCE: Final = 12
_HOW: Final = (
    "a key is 32 random bytes in base64; make one with: "
    'python -c "import secrets, base64; print(base64.b64encode(secrets.token_bytes(32)).decode())"'
)

_keys: dict[str, bytes] = {}
"""By id; the first writes."""


def use(keys: Iterable[str | bytes]) -> None:
    """Take these keys for this process, the first to write with; those that it had before still read.

    Raises `InvalidOption` for what is no key, without showing it.
    """
    if isinstance(keys, (str, bytes)):
        raise InvalidOption("keys is a list, the newest key first; write keys=[key]")
    read = [_key(key, place) for place, key in enumerate(keys, 1)]
    if not read:
        raise InvalidOption(f"keys is empty; {_HOW}")
    kept = {**{_id(key): key for key in read}, **{name: key for name, key in _keys.items() if key not in read}}
    _keys.clear()
    _keys.update(kept)


def use_file(path: str | Path) -> None:
    """Take the keys in a file, one in each line, the newest first; empty lines, and those that begin with #, are none.

    Raises `InvalidOption` where it can't be read, and for what is no key, without showing it.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidOption(f"the file with keys can't be read: {describe(error)}") from None
    use([line.strip() for line in lines if line.strip() and not line.strip().startswith("#")])


def newest() -> str:
    """Return the id of the key that writes; raises as `check` does."""
    check()
    return _writing()[0]


def check() -> None:
    """Raise `KeyMissing` where no args can be sealed: without a key, or without the package cryptography."""
    _writing()
    _cipher()


def seal(worker: str, args: Mapping[str, object]) -> JSONDict:
    """Return args as their row has them."""
    name, key = _writing()
    nonce = os.urandom(_NONCE)
    text = _cipher()(key).encrypt(nonce, values.dumps(args).encode(), worker.encode())
    return {DATA: f"{name}:{b64encode(nonce + text).decode()}"}


def is_sealed(args: object) -> bool:
    """Whether these are the args of a row that is encrypted, and not plain ones."""
    if not isinstance(args, Mapping) or len(given := cast("Mapping[str, object]", args)) != 1:
        return False
    return isinstance(data := given.get(DATA), str) and ":" in data


def unseal(worker: str, args: Mapping[str, object]) -> JSONDict:
    """Return the args that were sealed; raises `KeyMissing` where none of the keys reads them."""
    name, _, data = str(args[DATA]).partition(":")
    _load()
    key = _keys.get(name)
    if key is None:
        raise KeyMissing(
            f"the args of this job are encrypted with the key {name!r}, which this process does not have; "
            f"add it to {VARIABLE}, or to Oban(..., keys=[new, old])"
        )
    from cryptography.exceptions import InvalidTag

    try:
        raw = b64decode(data, validate=True)
        text = _cipher()(key).decrypt(raw[:_NONCE], raw[_NONCE:], worker.encode())
    except (InvalidTag, NotBase64, ValueError):
        raise KeyMissing(
            f"the args of this job can't be decrypted with the key {name!r}: they were changed, or are another worker's"
        ) from None
    return cast("JSONDict", values.from_json(text))


def _writing() -> tuple[str, bytes]:
    _load()
    if not _keys:
        raise KeyMissing(
            f"args are to be encrypted, and there is no key; set {VARIABLE}, or {FILE}, or Oban(..., keys=[key])"
        )
    return next(iter(_keys.items()))


def _load() -> None:
    if _keys:
        return
    if given := os.environ.get(VARIABLE, "").strip():
        use([each.strip() for each in given.split(",") if each.strip()])
    elif path := os.environ.get(FILE, "").strip():
        use_file(path)


def _key(given: object, place: int) -> bytes:
    raw = given
    if isinstance(given, str):
        try:
            raw = b64decode(given, validate=True)
        except (NotBase64, ValueError):
            raw = None
    if not isinstance(raw, bytes) or len(raw) != 32:
        raise InvalidOption(f"key {place} of {VARIABLE} or keys=[...] can't be used; {_HOW}")
    return raw


def _id(key: bytes) -> str:
    return sha256(b"oban_sa key " + key).hexdigest()[:8]


def _cipher() -> type[AESGCM]:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    except ImportError:
        raise KeyMissing("args are encrypted by the package cryptography; pip install 'oban-sa[encryption]'") from None
    return AESGCM
