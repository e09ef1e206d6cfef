"""Random histories of a cloud and the daemon over it, against a plain model: see model/.

What breaks is printed as the shortest history that shows it, and the line that has it again.
"""

import pytest

from tests.promises.model.running import run


def test_histories_in_one_process_go_as_the_model_says():
    tally = run(900, seed=7, length=60)
    assert tally.reads > 100
    assert tally.bytes > 1 << 20


@pytest.mark.mounted
def test_histories_of_a_real_mount_go_as_the_model_says():
    tally = run(40, seed=7, length=40, mounted=True)
    assert tally.reads > 5
