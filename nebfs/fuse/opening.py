"""Opening an image: its place is asked whether it still has the version that is shown."""

from __future__ import annotations

import structlog

from nebfs.content import Library, Prober
from nebfs.errors import Changed, Missing, NebfsError, Refused, TimedOut, Unreachable
from nebfs.fuse.handles import Disk
from nebfs.model import Content
from nebfs.tree import ContentFile, Tree
from nebfs.tree.troubles import NO_BYTES

log = structlog.get_logger()


class Opening:
    """Opens images. What a place said about one is believed for `revalidate` seconds."""

    def __init__(self, tree: Tree, library: Library, prober: Prober, revalidate: float) -> None:
        self._tree = tree
        self._library = library
        self._prober = prober
        self._revalidate = revalidate

    async def image(self, node: ContentFile) -> Disk:
        """Open an image. Raises Changed when there is another version than the one shown, and
        NebfsError with the errno of its trouble when it has no bytes.
        """
        if node.unready and node.content is not None:
            # The kernel believes none of its attributes: whoever opens it sees its length then.
            try:
                await self._library.measure(node.content)
            except Changed:
                self._tree.outdated(node)
                raise
            node = await self._tree.readied(node)
        content, revision = node.content, node.revision
        if node.trouble is not None or content is None or revision is None:
            trouble = node.trouble or NO_BYTES
            failure = NebfsError(trouble.reason, name=node.name)
            failure.errno = trouble.errno
            raise failure
        await self.confirm(node)
        try:
            return Disk(node, await self._library.open(content, revision))
        except Changed:
            self._tree.outdated(node)
            raise

    async def confirm(self, node: ContentFile) -> None:
        """Ask the place whether it still has this version, if that can be another by now. Raises
        NebfsError.
        """
        content = node.content
        if content is None or not (content.revision is None or content.view or content.mutable):
            return
        try:
            await self._still_there(node, content)
        except Changed:
            self._tree.outdated(node)
            raise

    async def _still_there(self, node: ContentFile, content: Content) -> None:
        """Ask the place, if it was not asked lately.

        A place that does not answer does not make what is cached unreadable, unless VMs may have
        written to it since.
        """
        max_age = 0.0 if content.mutable else self._revalidate
        try:
            probed = await self._prober.ask(content, max_age=max_age)
        except (Unreachable, TimedOut) as exc:
            if content.mutable:
                raise
            log.info("open.unconfirmed", name=node.name, error=str(exc))
            return
        except (Changed, Missing, Refused):
            raise
        except NebfsError as exc:
            if not content.view:
                raise
            # What disk is in it was known of the version that was listed: this is another one.
            raise Changed("its file has another version now", what=str(exc)) from exc
        assert node.revision is not None  # noqa: S101 - what is shown without one is not opened
        difference = node.revision.differs_from(probed.revision)
        if difference:
            raise Changed("its place has another version now", what=difference)
