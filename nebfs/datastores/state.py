"""Which images have bytes that may be read now, by OpenNebula's own states; their snapshots.

Source: the image states of OpenNebula 7.4 and the TM_MAD_CONF flags that it copies into a
datastore's template (LN_TARGET: where a VM's disk goes when it uses a persistent image).
"""

from __future__ import annotations

import errno
from collections.abc import Iterable

from nebfs.model import (
    Content,
    Datastore,
    DatastoreType,
    Image,
    ImageState,
    Part,
    Snapshot,
    Template,
    Trouble,
    shown_line,
)

# Nobody writes to the bytes of an image in these states.
_STABLE = frozenset(
    {
        ImageState.READY,
        ImageState.USED,
        ImageState.CLONE,
        ImageState.DISABLED,
        ImageState.LOCKED_USED,
    }
)


def listed(datastore: Datastore, images: Iterable[Image]) -> tuple[Image, ...]:
    """Return the images to show, by ascending id: none that is being deleted.

    A system datastore holds the disks of VMs, which are no images.
    """
    if datastore.type is DatastoreType.SYSTEM:
        return ()
    kept = (image for image in images if image.state is not ImageState.DELETE)
    return tuple(sorted(kept, key=lambda image: image.id))


def trouble_of(image: Image, datastore: Datastore) -> Trouble | None:
    """Say why the image's bytes cannot be read now, or None. A user's LOCK is no reason."""
    if image.unreadable:
        return Trouble(errno.EIO, image.unreadable)
    if image.state in _STABLE:
        return None
    match image.state:
        case ImageState.USED_PERS | ImageState.LOCKED_USED_PERS:
            if _copied_for_vms(datastore.template):
                return None
            return Trouble(errno.EBUSY, "a VM writes to it: the image is persistent and in use")
        case ImageState.INIT | ImageState.LOCKED:
            return Trouble(errno.EBUSY, "OpenNebula is still writing the image, or changing it")
        case ImageState.ERROR:
            said = shown_line(image.template.get("ERROR")) or "no text"
            return Trouble(errno.EIO, f"OpenNebula has the image in state ERROR: {said}")
        case ImageState.DELETE:
            return Trouble(errno.EBUSY, "OpenNebula is deleting the image")
        case _:
            return Trouble(errno.EOPNOTSUPP, "the image is in a state that nebfs does not know")


def snapshot_part(snapshot: Snapshot, had: Content | Trouble) -> Part:
    """Return what the image `had` at one of its snapshots as a file of its own."""
    name = f"{snapshot.id}-{snapshot.name}" if snapshot.name else str(snapshot.id)
    if isinstance(had, Trouble):
        return Part(name, trouble=had, date=snapshot.date)
    return Part(name, had, date=snapshot.date)


def _copied_for_vms(template: Template) -> bool:
    """Whether a VM works on a copy of a persistent image, so that the image itself is at rest.

    Each kind of system datastore has its own LN_TARGET_*; we do not know which one the VM is in.
    NONE means that the very file is used. Without an answer we assume the worst.
    """
    targets = [v for k, v in template if k.startswith("LN_TARGET") and isinstance(v, str)]
    return bool(targets) and all(target.upper() in {"SYSTEM", "SELF"} for target in targets)
