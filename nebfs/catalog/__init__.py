"""What exists, as whole dated snapshots, kept on disk for a start without the network.

What lives here: the snapshot (``snapshot``), taking one, or one place of it (``survey`` asks every
place's driver; ``keeping`` says what stays of a place that failed), comparing two (``compare``),
keeping one on disk (``saved``) and its life: start, refresh, what happens when the front-end is
away or turns us out (``catalog``). ``homes`` finds every object its place, ``together`` asks
several questions at once. ``openings`` asks for the files of a single app or backup where lists do
not tell them. ``lists`` has the questions to the front-end that tell what a session may use;
``usable`` and ``callers`` ask them about other users of this machine, each with his own session.

What does not: the front-end's protocol (opennebula's), where bytes are (the drivers'), names and
directories (the tree's).

Who may import it: tree, and rooms above it.

Start reading at ``catalog.Catalog``; what a snapshot promises is in ``snapshot``.

Concurrency: one survey at a time, whoever asks for it; reading ``current`` never waits. Subscribers
are plain functions, called on the event loop one after the other with whole snapshots. Comparing,
writing and reading snapshots happens in worker threads.
"""

from nebfs.catalog.callers import Callers
from nebfs.catalog.catalog import Catalog, Documents, Survey
from nebfs.catalog.compare import Changes, changed_places, changes, differs
from nebfs.catalog.lists import FrontEnd
from nebfs.catalog.openings import Backups, Keeping, Openings
from nebfs.catalog.snapshot import (
    DATASTORE,
    MARKETPLACE,
    CloudSnapshot,
    DatastoreListing,
    MarketplaceListing,
    Place,
)
from nebfs.catalog.survey import Surveyor
from nebfs.catalog.usable import Usable, usable_by

__all__ = [
    "DATASTORE",
    "MARKETPLACE",
    "Backups",
    "Callers",
    "Catalog",
    "Changes",
    "CloudSnapshot",
    "DatastoreListing",
    "Documents",
    "FrontEnd",
    "Keeping",
    "MarketplaceListing",
    "Openings",
    "Place",
    "Survey",
    "Surveyor",
    "Usable",
    "changed_places",
    "changes",
    "differs",
    "usable_by",
]
