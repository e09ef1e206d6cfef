"""``nebfs demo``: what reaches the tour."""

import importlib


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
