"""What is in a cache directory, told without a daemon: for commands. Nothing is changed."""

from __future__ import annotations

from pathlib import Path

from nebfs.blocks.index import Verdict
from nebfs.blocks.resting import Resting, look_at_all
from nebfs.content.decodings import SHOWN
from nebfs.daemon.pins import pinned_in
from nebfs.errors import UserError

VERDICTS = {Verdict.UNKNOWN: "", Verdict.VERIFIED: "yes", Verdict.MISMATCH: "mismatch"}


def records(directory: Path) -> list[dict[str, object]]:
    """Return what ``GET /v1/cache`` lists as objects. Blocking. Raises UserError."""
    if not (directory / "VERSION").exists():
        raise UserError(f"{directory} is no cache directory of nebfs")
    try:
        pinned = pinned_in(directory)
        found = [record(one) for one in look_at_all(directory)]
    except OSError as exc:
        raise UserError(f"{directory} cannot be read: {exc.strerror}") from exc
    for one in found:
        one["pinned"] = one["key"] in pinned
    return found


def record(one: Resting) -> dict[str, object]:
    """Return an object as it is listed."""
    decompressed = one.source.endswith(SHOWN)
    # Until all of it was decompressed once its file has the length of a guess.
    known = not decompressed or one.verdict is Verdict.VERIFIED
    return {
        "key": one.key,
        "source": one.source,
        "size": one.size,
        "measured": known,
        "cached": one.cached,
        "disk": one.disk_bytes,
        "used": one.used,
        "verified": VERDICTS[one.verdict],
        "decompressed": decompressed,
        "open": False,
        "pinned": False,
    }
