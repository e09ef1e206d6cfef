"""What the window is told when it is made: plain values, and who is asked about users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from nebfs.catalog.usable import Usable
from nebfs.tree.rights import Rights


class Callers(Protocol):
    """Who knows what each user of this machine may use; ``catalog.Callers``."""

    async def of(self, uid: int) -> Usable | None:
        """Return what the user may use; None: everything. Raises NebfsError, in bounded time."""
        ...


@dataclass(frozen=True, slots=True)
class OperationsSettings:
    """`deadline`: seconds until a read fails. `revalidate`: seconds for which what a place said
    about an image is believed when the image is opened. `owner`: uid and gid of everything.
    `slow`: seconds from which what somebody waits for is logged.
    """

    deadline: float = 60.0
    revalidate: float = 60.0
    owner: tuple[int, int] = (0, 0)
    umask: int = 0
    slow: float = 5.0
    rights: Rights | None = None
    """What other users may open; None: everything."""
    callers: Callers | None = None
    """Each user sees what his own session may use; None: everybody sees everything."""
