"""Wires: the second process. Everything that asks the network for anything lives here.

What lives here: the two async functions the daemon sees (``fetch`` and ``call``, see messages.py),
the process behind them, and in ``transports/`` one file per way to reach remote bytes.
What does not: retrying, limiting and read-ahead (content), where cached bytes rest (blocks: this
room writes only to descriptors that it is handed), what a front-end's answer means (opennebula).

Imported by content, opennebula, marketplaces and the daemon's wiring, which see ``messages``,
``settings`` and ``client``; nobody outside imports the rest. Start reading in messages.py, then
client.py (this side of the border), wire.py (the border) and worker.py (the other side).

Concurrency: client.py and what it imports run under trio in the daemon; worker.py, transports/ and
slots.py run under asyncio in the process that ``python -m nebfs.fetcher`` starts. The two sides
share records and frames, never objects, and neither imports the other. The worker keeps no state
that matters: it may be killed at any time, and is then started again with its requests.
"""
