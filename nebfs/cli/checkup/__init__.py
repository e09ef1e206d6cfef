"""The checks of ``nebfs doctor``: one file per part of the world that a mount depends on.

Each check is a function that yields findings (``finding``) and raises nothing that is expected.
What asks the network (``reaching``, ``cloud``) does it as the daemon does: through a fetcher
process. ``run`` has them all made at the same time, each within a bound of seconds. Imported by the
commands doctor, config and support-bundle. Start reading in ``run``.
"""
