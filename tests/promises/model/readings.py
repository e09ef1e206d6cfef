"""Opening, reading and closing what is listed."""

from __future__ import annotations

import errno

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.promises.model.history import ANY, History, counted
from tests.promises.model.judging import (
    GONE,
    TROUBLES,
    Handle,
    WrongError,
    versions_at_open,
)
from tests.promises.model.listings import Listings
from tests.promises.model.reference import Shown

LENGTHS = st.sampled_from([1, 512, 4096, 70_000, 131_072, 1 << 20])


class Readings(Listings):
    """What programs do with images."""

    @precondition(lambda self: self.alive() and len(self.handles) < 8)
    @rule(which=ANY, raw=st.booleans())
    @counted
    def open(self, which: int, raw: bool) -> None:
        self.open_one(which, raw=raw)

    def open_one(self, which: int, *, raw: bool) -> Handle | None:
        chosen = self.pick(which, self.shown())
        if chosen is None:
            return None
        place, shown = chosen
        path = self.path_of(place, shown, raw=raw)
        local = place.startswith("datastores")
        self.tally.opens += 1
        try:
            fh, entry = self.ask(self.mount.open, path)
        except OSError as exc:
            self.tally.error(exc)
            assert self._may_not_open(exc.errno, shown, raw=raw, local=local), f"{path}: {exc}"
            return None
        assert not self.denied, f"{path} is opened by somebody who is not let in"
        assert not shown.blocked, f"{path} is opened, and nobody knows where its bytes are"
        versions = versions_at_open(shown, self.weather, self.now, local=local)
        handle = Handle(fh, shown, raw, versions, entry.ino)
        if entry.can_be_read:
            handle.candidates = {v for v in versions if len(handle.bytes_of(v)) == entry.size}
        if not handle.candidates:
            numbers = sorted(version.number for version in versions)
            raise WrongError(f"{handle} is opened with {entry.size} bytes: not of {numbers}")
        self.handles.append(handle)
        return handle

    def _may_not_open(self, number: int | None, shown: Shown, *, raw: bool, local: bool) -> bool:
        if self.denied:
            return number == errno.EACCES
        if shown.blocked:
            return number in {*TROUBLES, errno.ENOENT}
        if shown.thing.missing and number in GONE:
            return True
        decoded = raw and shown.recorded.kind == "gz"
        if decoded and self.weather.disk_troubled(self.now) and number in {errno.EIO, errno.EAGAIN}:
            return True
        if local:
            return False
        if decoded and shown.thing.past and number == errno.ESTALE:
            return True  # what a look into it has met is remembered for some seconds
        if decoded and shown.md5 and shown.thing.current.md5 != shown.md5:
            return number == errno.EIO
        # While its first bytes are not known it has another name, or none.
        said = {*TROUBLES, errno.ENOENT, errno.EAGAIN, errno.ESTALE}
        return self.weather.troubled(self.now) and number in said

    @precondition(History.open_ones)
    @rule(which=ANY, at=ANY, length=LENGTHS)
    @counted
    def read(self, which: int, at: int, length: int) -> None:
        handle = self.pick(which, self.handles)
        self.read_at(handle, at % handle.size, length)

    def read_at(self, handle: Handle, offset: int, length: int) -> None:
        try:
            got = self.ask(self.mount.read, handle.fh, offset, length)
        except OSError as exc:
            self.failed(handle, exc)
        else:
            self.answered(handle, offset, length, got)

    def failed(self, handle: Handle, exc: OSError) -> None:
        self.tally.error(exc)
        assert handle.may_fail(exc.errno, self.weather, self.now), f"{handle!r}: {exc}"

    def answered(self, handle: Handle, offset: int, length: int, got: bytes) -> None:
        self.tally.reads += 1
        self.tally.bytes += len(got)
        handle.judge(offset, length, got)

    @precondition(History.alive)
    @rule(
        which=ANY,
        raw=st.booleans(),
        reads=st.lists(st.tuples(ANY, LENGTHS), min_size=1, max_size=6),
        stays=st.booleans(),
    )
    @counted
    def open_and_read(
        self, which: int, raw: bool, reads: list[tuple[int, int]], stays: bool
    ) -> None:
        """Look into an image here and there, and close it, or leave it open."""
        handle = self.open_one(which, raw=raw)
        if handle is None:
            return
        for at, length in reads:
            self.read_at(handle, at % handle.size, length)
        if not stays or len(self.handles) > 8:
            self.handles.remove(handle)
            self.mount.release(handle.fh)

    @precondition(History.open_ones)
    @rule(which=ANY)
    @counted
    def read_all(self, which: int) -> None:
        """From the beginning to the end, as cp does."""
        handle = self.pick(which, self.handles)
        for offset in range(0, handle.size, 1 << 17):
            self.read_at(handle, offset, 1 << 17)

    @precondition(History.alive)
    @rule(raw=st.booleans())
    @counted
    def read_everything(self, raw: bool) -> None:
        """Open each thing that is shown, read it from the beginning to the end, and close it."""
        for number in range(len(self.shown())):
            handle = self.open_one(number, raw=raw)
            if handle is not None:
                for offset in range(0, handle.size, 1 << 17):
                    self.read_at(handle, offset, 1 << 17)
                self.handles.remove(handle)
                self.mount.release(handle.fh)

    @precondition(History.open_ones)
    @rule(which=ANY)
    @counted
    def close(self, which: int) -> None:
        handle = self.handles.pop(which % len(self.handles))
        self.mount.release(handle.fh)
