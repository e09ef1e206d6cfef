"""Listing everything, on both faces, and comparing it with the last good listing."""

from __future__ import annotations

import errno
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from tests.promises.model.changes import Changes
from tests.promises.model.history import History, counted, extension
from tests.promises.model.judging import TROUBLES, WrongError, file_name
from tests.promises.model.kernel import Entry
from tests.promises.model.reference import Shown, raw_names

DOCUMENTS = frozenset({"app.json", "image.tmpl", "vm.tmpl", "CHECKSUMS"})


class Listings(Changes):
    """What `ls -lR` shows."""

    @precondition(History.alive)
    @rule(raw=st.booleans())
    @counted
    def list_everything(self, raw: bool) -> None:
        """Each place and each app, compared with the last good listing."""
        for top in ("marketplaces", "datastores"):
            places = getattr(self.listing, top)
            path = f"raw/{top}" if raw else top
            self._expect(path, set(places))
            for place, things in places.items():
                below = f"{path}/{place}"
                if things is None:
                    self._expect_error(below, TROUBLES)
                elif top == "marketplaces":
                    self._expect(below, set(things))
                    for name, shown in things.items():
                        self._list_app(f"{below}/{name}", shown, raw=raw)
                else:
                    self._list_images(below, things, raw=raw)

    def _listed(self, path: str) -> dict[str, Entry] | None:
        """List a directory; None where nothing may be seen."""
        self.tally.listings += 1
        try:
            found: dict[str, Entry] = self.ask(self.mount.list, path)
        except OSError as exc:
            self.tally.error(exc)
            assert self.denied, f"{path}: {exc}"
            assert exc.errno == errno.EACCES, f"{path}: {exc}"
            return None
        assert not self.denied, f"{path} is listed to somebody who is not let in"
        return found

    def _expect(self, path: str, names: set[str]) -> None:
        found = self._listed(path)
        assert found is None or set(found) == names, f"{path}: {sorted(found)}, not {sorted(names)}"

    def _expect_error(self, path: str, numbers: frozenset[int]) -> None:
        self.tally.listings += 1
        try:
            found = self.ask(self.mount.list, path)
        except OSError as exc:
            self.tally.error(exc)
            assert exc.errno in numbers or (self.denied and exc.errno == errno.EACCES), exc
        else:
            raise WrongError(f"{path} was never listed, and shows {sorted(found)}")

    def _list_app(self, path: str, shown: Shown, *, raw: bool) -> None:
        found = self._listed(path)
        if found is None:
            return
        files = {name: entry for name, entry in found.items() if name not in DOCUMENTS}
        right = file_name(shown, app=True)
        guess = file_name(shown, app=True, guessed=True)
        if raw:
            right, guess = (raw_names({n: extension(shown)})[n] for n in (right, guess))
        assert len(files) == 1, f"{path}: {sorted(found)}"
        ((name, entry),) = files.items()
        if shown.blocked:
            assert not entry.can_be_read, f"{path}: nobody knows where its bytes are"
            return
        if entry.can_be_read:
            assert name == right, f"{path}: {name}, not {right}"
            sizes = {len(v.disk if raw else v.data) for v in self._may_be_listed(shown)}
            assert entry.size in sizes, f"{path}: {entry.size}, not one of {sizes}"
            return
        assert name in (right, guess), f"{path}: {name}, not {right}"
        assert entry.size == 0
        unready = raw and shown.recorded.kind == "gz"
        assert unready or shown.thing.missing or self.weather.troubled(self.now), (
            f"{path}/{name} cannot be read, for no reason"
        )

    def _may_be_listed(self, shown: Shown) -> set[Any]:
        told = self.world.network.told.get(self.world.address(shown.thing), [])
        return set(told) or shown.thing.ever()

    def _list_images(self, path: str, things: dict[str, Shown], *, raw: bool) -> None:
        found = self._listed(path)
        if found is None:
            return
        called = {name: name for name in things}
        if raw:
            called = raw_names({name: extension(shown) for name, shown in things.items()})
        names = set(called.values())
        assert set(found) == names, f"{path}: {sorted(found)}, not {sorted(names)}"
        for name, shown in things.items():
            entry = found[called[name]]
            if entry.can_be_read:
                versions = {shown.listed} | shown.thing.ever()
                sizes = {len(v.disk if raw else v.data) for v in versions}
                assert entry.size in sizes, f"{path}/{name}: {entry.size}, not one of {sizes}"
                continue
            changed = shown.thing.missing or shown.thing.current is not shown.listed
            assert changed or (raw and shown.listed.kind == "gz"), (
                f"{path}/{name} cannot be read, for no reason"
            )
