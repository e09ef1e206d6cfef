"""One mounted life: wiring, start, ready, drain, stop, control socket.

What lives here: building every room with plain values from the settings (wiring.py, the only module
that sees all of them), the order in which they start and stop (life.py), what a service manager is
told meanwhile (notify.py), what signals do (reload.py, dump.py), what is told about the rooms
(status.py, metrics.py, history.py; to browsers: dashboard.py, panorama.py, page/), and how
commands find and ask a running daemon (registry.py, control.py; on TCP: listening.py). What may be
asked is in routes.py, by subject: explaining.py, refreshing.py, warming.py, pinning.py,
verifying.py, objects.py and checking.py (the cache); what goes on for a while is one of jobs.py.

What does not: anything that a room decides for itself.

Who may import it: ``cli``.

Start reading in life.py, whose ``run`` is the daemon. Nothing is re-exported here: a command that
only asks a running daemon need not load every room.

Concurrency: one trio run. The rooms' background tasks live in one nursery and end together; the
window to the kernel is opened last and closed first, so no request ever meets a half-built house.
"""
