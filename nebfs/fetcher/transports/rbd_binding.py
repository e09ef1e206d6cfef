"""Ceph's own Python modules, ``rados`` and ``rbd``: found, loaded, or said to be missing.

They are compiled against the cluster's libraries and exist only as packages of the distribution,
for the distribution's Python: a virtual environment does not see them. They are loaded from where
the distribution puts them, and nothing else of that directory can be imported by that.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any

from nebfs.errors import Unsupported

_VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"

DIRECTORIES = (
    "/usr/lib/python3/dist-packages",  # Debian, Ubuntu
    f"/usr/lib64/python{_VERSION}/site-packages",  # Fedora, Red Hat, SUSE
    f"/usr/lib/python{_VERSION}/site-packages",  # Arch
)

# In this order: rbd imports rados.
_MODULES = ("rados", "rbd")
_REMEDY = "install python3-rados and python3-rbd"


@dataclass(frozen=True, slots=True)
class Binding:
    """The two modules."""

    rados: Any
    rbd: Any


def load(directories: Sequence[str] = DIRECTORIES) -> Binding:
    """Return the modules. Raises Unsupported, which says what to install."""
    return Binding(*(_module(name, directories) for name in _MODULES))


def _module(name: str, directories: Sequence[str]) -> ModuleType:
    loaded = sys.modules.get(name)
    if loaded is not None:
        return loaded
    # Not by way of sys.path: that would offer all that the distribution has to whoever imports.
    spec = importlib.util.find_spec(name) or PathFinder.find_spec(name, list(directories))
    if spec is None or spec.loader is None:
        raise Unsupported(_missing(name, directories))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as exc:
        del sys.modules[name]
        if not isinstance(exc, ImportError):
            raise
        reason = f"Ceph's Python module {name!r} cannot be loaded ({exc}); {_REMEDY} again"
        raise Unsupported(reason) from exc
    return module


def _missing(name: str, directories: Sequence[str]) -> str:
    for directory in directories:
        for found in Path(directory).glob(f"{name}.*.so"):
            return (
                f"Ceph's Python module {name!r} is here for another Python ({found.name}), and"
                f" nebfs runs with Python {_VERSION}: install nebfs with the system's Python"
            )
    return f"Ceph's Python module {name!r} is not installed; {_REMEDY}"
