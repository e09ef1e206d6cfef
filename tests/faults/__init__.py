"""Faults under a test's control: a place that fails, a way to it that fails, a layer that fails.

* web.py, lies.py: an HTTP server that says what a test wants, and the ways in which it is wrong;
* valve.py, deaf.py: what is between nebfs and any server: a port that forwards, stalls, cuts, drips
  or is closed, and one at which no connection is ever made;
* ways.py: an object store and an sshd, each behind a valve;
* layers.py: readers and sources that fail or are slow, to be put at any height of a stack;
* disk.py: a disk that is slow, rots or refuses when told, and small real ones;
* house.py: the real stack over the real fetcher process, for tests that need no kernel;
* reading.py: what is published, in each kind of stack, and reading it at random.

Clocks need nothing of ours: trio's own (autojump_clock, MockClock) turn whatever does not wait for
another process.
"""
