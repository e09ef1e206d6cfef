"""The door: the words that a person types, and what the shell is told.

Here lives one file per command (mount, umount, status, ls, demo, config, doctor, support-bundle,
completion, profile, dashboard, and those that steer a running daemon: explain, refresh, warm, pin,
unpin, verify, cache), what mount(8) starts (`mount_helper`), the checks that the doctor makes
(`checkup`), what commands share (`mounts`: the kernel's mount table; `daemons`: whose a path is;
`progress`: bars; `options`: the dialect of ``-o``; `background`: starting a daemon and waiting for
its word; `written` and `template`: settings as text; `scrubbing`: text without secrets; `door`: how
a failure is told; `exits`: the codes below) and `main`, where reading starts. Nothing that a
mounted filesystem does lives here: `mount` ends in one call of the daemon's `run`. Nobody imports
this room.

Commands are plain synchronous functions; the only event loops are the daemon's, in its own process
or, with ``--foreground``, inside its one call, and the doctor's, which asks many things at once.

A person's mistake is answered by one line per problem that names cause and remedy, never by a
traceback. Exit codes::

    0    done; status: everything is healthy
    1    failed for a reason that the message gives; verify: the image differs
    2    usage: the command line, an option or a setting is wrong
    3    not mounted, or no daemon is running
    4    status, refresh: a place is degraded; status: a daemon died or does not answer;
         doctor: there is a problem
    32   the mount failed (as mount(8) answers)
    69   the front-end or marketplace cannot be reached; verify: the image cannot be read
    70   a mistake in nebfs itself: please report it
    77   the front-end refused the credentials, or the mount is another user's
    130  interrupted from the keyboard
"""
