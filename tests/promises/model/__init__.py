"""A model of the whole: a plain reference, the real rooms beside it, and histories of both.

What lives here: ``reference`` says what should be there (plain Python, no nebfs in it), ``world``
is the cloud and its places as data, changed together with the reference, ``web`` answers for them.
The rooms are driven at two heights. In one process (``rules``): ``loop`` runs trio step by step
with a clock that jumps, ``worker`` stands where the fetcher's process would be (the client, the
wire and everything above are the real ones), ``life`` builds the house with daemon/wiring.py, and
``kernel`` asks it what the kernel would, with a kernel's caches. And over a real mount, with real
servers and processes (``mounted``). ``history``, ``changes``, ``listings`` and ``readings`` are the
steps that both have, ``judging`` says what an answer may be.

A few hundred steps run as tests; many by hand::

    python -m tests.promises.model --steps 20000 [--seed N] [--mounted]
"""
