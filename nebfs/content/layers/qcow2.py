"""The disk inside a qcow2 image (stand-in until the reader is here)."""

from __future__ import annotations

from nebfs.content.stack import Reader
from nebfs.errors import Unsupported
from nebfs.model import Revision


class Qcow2:
    """Refuses."""

    @classmethod
    async def open(cls, file: Reader, backing: Reader | None, revision: Revision) -> Reader:
        """Raises Unsupported; closes what it was given."""
        await file.aclose()
        if backing is not None:
            await backing.aclose()
        raise Unsupported(f"raw views of {revision.size} bytes are not read yet")
