"""nebfs: an OpenNebula cloud's marketplaces and datastores as a read-only directory tree.

Start reading in docs/architecture.md, then in the docstring of the room you are about to enter.
Imports run one way (see ``[tool.importlinter]`` in pyproject.toml)::

    cli -> daemon -> fuse -> tree -> catalog -> (marketplaces | datastores) -> opennebula
        -> content -> (blocks | fetcher) -> (model, errors, units)
"""

import os

# numpy's linear algebra, of which nothing here is used, would start a thread for each processor.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

__version__ = "0.1.0"
