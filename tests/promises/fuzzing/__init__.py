"""Input that nobody made on purpose, chosen by which of our code it reaches (promise 11).

One file for each kind of input, with ``one(data)``: it takes any bytes, and returns when what they
led to is as promised. Long runs need atheris (``pip install nebfs[fuzz]``)::

    python -m tests.promises.fuzzing TARGET --seconds 300

Each run begins with ../corpora/TARGET: small inputs that the formats own tools made,
and what once found something. The test of the promise gives them to ``one`` again.
"""

from __future__ import annotations

TARGETS = (
    "appliances",
    "cache",
    "config",
    "decoders",
    "disks",
    "oci",
    "opennebula",
    "qcow2",
    "simplestreams",
    "template",
)
