"""``nebfs demo``: what reaches the tour."""

import importlib
import os
import signal
import time

import pytest


def test_the_tour_is_taken_and_its_result_is_ours(invoke, any_fuse, monkeypatch, tmp_path):
    calls = []

    def tour(*, directory, keep, console):
        console.print("[b]")
        calls.append((directory, keep, directory.is_dir()))
        return 7

    # By name: the room re-exports the function under the name of its module.
    monkeypatch.setattr(importlib.import_module("nebfs.demo.tour"), "tour", tour)
    done = invoke("demo", "--keep", "--directory", tmp_path)
    assert done.exit_code == 7
    assert calls == [(tmp_path, True, True)]
    assert invoke("demo").exit_code == 7
    scratch, keep, was_there = calls[1]
    assert (keep, was_there, scratch.exists()) == (False, True, False)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_whatever_ends_it_is_told_to_the_tour_which_unmounts(invoke, any_fuse, monkeypatch, number):
    def tour(*, directory, keep, console):
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
            time.sleep(5)
        return 130

    monkeypatch.setattr(importlib.import_module("nebfs.demo.tour"), "tour", tour)
    before = signal.getsignal(number)
    assert invoke("demo").exit_code == 130
    assert signal.getsignal(number) is before
