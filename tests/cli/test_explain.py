"""``nebfs explain``: what is made of a daemon's answer; the mounted tests have real ones."""

import pytest

from nebfs.cli.explain import lines

FILE = {
    "source": "http://host/a",
    "format": "qcow2",
    "etag": '"1"',
    "size": 2 << 20,
    "cached": 1 << 20,
    "key": "ab" * 32,
    "verified": "mismatch",
    "last_error": "no answer",
    "latency": 0.02,
    "rate": 3 << 20,
    "layers": [
        {"name": "retry", "purpose": "asks again", "counted": {"retries": 0, "odd_ones": 0}},
        {"name": "place", "purpose": "is asked", "counted": {"bytes": 1024, "seconds": 0.5}},
        {"name": "odd", "purpose": "nothing", "counted": 5},
    ],
}


def test_a_chain_is_told_file_by_file():
    answer = {"path": "a", "format": "raw", "view": "raw", "size": 1 << 30}
    said = "\n".join(lines(answer | {"files": [FILE, FILE | {"format": "raw"}]}))
    assert "raw, the disk in qcow2 over raw" in said
    assert "file 1 of 2" in said
    assert "NO: it differs" in said
    assert "answers in 20 ms, gives 3.00 MiB/s" in said
    assert "1.00 MiB of 2.00 MiB" in said
    assert "last error  no answer" in said
    assert "retries 0" in said
    assert "odd ones" not in said
    assert "bytes 1.00 KiB, answering took 500 ms" in said


@pytest.mark.parametrize(
    "answer",
    [{}, {"files": 5}, {"files": [{}, "x"]}, {"files": [{"layers": [{}]}], "open_files": 1}],
)
def test_odd_answers_are_told_as_far_as_they_go(answer):
    assert list(lines(answer))
