"""Running histories: so many steps, from a seed, and how to have a failing one again."""

from __future__ import annotations

import itertools
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, Verbosity, settings
from hypothesis import seed as seeded
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from tests.promises.model.judging import Tally

AT_ONCE = 50
"""Histories of one run of hypothesis; the next one has another seed."""


def run(
    steps: int,
    *,
    seed: int,
    length: int = 60,
    mounted: bool = False,
    shrink: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> Tally:
    """Take at least so many steps. Raises what was wrong, with the history that has shown it; with
    `shrink` the shortest one that does.

    A run with the same numbers goes the same way, but for what a real mount does in its own time.
    """
    machine = machine_of(mounted=mounted)
    tally: Tally = Tally()
    machine.tally = tally  # type: ignore[attr-defined]
    at_once = 2 if mounted else AT_ONCE
    for number in itertools.count():
        if tally.steps >= steps:
            return tally
        phases = [Phase.generate, Phase.shrink] if shrink else [Phase.generate]
        chosen = settings(
            max_examples=max(1, min(at_once, (steps - tally.steps) // length + 1)),
            stateful_step_count=length,
            database=None,
            deadline=None,
            phases=phases,
            print_blob=True,
            verbosity=Verbosity.normal,
            report_multiple_bugs=False,
            suppress_health_check=list(HealthCheck),
        )
        before = tally.steps
        try:
            run_state_machine_as_test(seeded(seed + number)(machine), settings=chosen)
        except BaseException as exc:
            exc.add_note(
                f"found after {tally.steps} steps; to have it again, as short as it can be:\n"
                f"  python -m tests.promises.model --seed {seed + number} --length {length} "
                f"--steps {steps - before} {'--mounted' if mounted else '--shrink'}"
            )
            raise
        say(f"{tally.steps} steps, {tally.reads} reads, {tally.bytes >> 20} MiB compared")
    raise AssertionError("there is no end of numbers")


def machine_of(*, mounted: bool) -> type[RuleBasedStateMachine]:
    """Return the machine of one height. The mounted one needs /dev/fuse only when it is used."""
    if mounted:
        from tests.promises.model.mounted import MountedHistories

        return MountedHistories
    from tests.promises.model.rules import Histories

    return Histories
