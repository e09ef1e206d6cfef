"""Measure nebfs beside the tools that people would use instead, on the same machine, in one run.

`scripts/bench` starts it. Where to begin reading: `cases/` says what is measured, one module per
kind of reading; `peers/` says whom nebfs is compared with and how each of them is started;
`bars.py` holds what nebfs is measured against. The rest is the ground they stand on: `sites.py`
(loopback, or a link with a delay made by link.c), `servers.py`, `images.py`, `rounds.py` (everybody
in turn), `report.py` and `chart.py`. What reads is always the same C program, reader.c.

docs/benchmarks.md says what the figures mean.
"""
