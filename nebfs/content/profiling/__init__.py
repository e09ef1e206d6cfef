"""Boot profiles: what is read of an image while a guest boots from it, recorded and fetched ahead.

A guest reads a few percent of its disk, in some hundreds of places, one after the other: over a
distance that is hundreds of waits. The next boot reads the same places in nearly the same order.
So what the first one reads is recorded (recorder.py), kept as a small document of the cache
(profile.py, shelf.py), and brought in that order and in large requests as soon as the image is
opened where it is not (follower.py). boots.py is what an open image has of all this.

A profile is never trusted, wherever it comes from. All it can do is to have bytes of its own image
fetched, of which there is a bound, at the priority of read-ahead. What another version of the image
has is compared before it is believed.

Recording happens at the file as published, below the views: the raw face of a qcow2 image and its
published face share one profile.
"""

from nebfs.content.profiling.boots import Boots, is_worthwhile
from nebfs.content.profiling.profile import LARGEST_DOCUMENT, Part, Profile, lineage
from nebfs.content.profiling.shelf import Shelf, shelf_in

__all__ = [
    "LARGEST_DOCUMENT",
    "Boots",
    "Part",
    "Profile",
    "Shelf",
    "is_worthwhile",
    "lineage",
    "shelf_in",
]
