"""Random histories of a cloud and the daemon over it, against a plain model: see model/.

What breaks is printed as the shortest history that shows it, and the line that has it again.
"""

import pytest

from tests.promises.model.judging import Tally
from tests.promises.model.mounted import MountedHistories
from tests.promises.model.running import run


def test_histories_in_one_process_go_as_the_model_says():
    tally = run(900, seed=7, length=60)
    assert tally.reads > 100
    assert tally.bytes > 1 << 20


@pytest.mark.mounted
def test_a_history_of_a_real_mount_goes_as_the_model_says():
    MountedHistories.tally = Tally()
    history = MountedHistories()
    history.begin(seed=7)
    try:
        history.list_everything(raw=False)
        history.read_everything(raw=True)
        history.open(which=0, raw=False)
        history.replace(which=0, how="longer", quietly=False)
        history.rename(which=1, name="a/b")
        history.add(name="alpine", place=0, kind="raw", size=131_073, md5=True)
        history.refresh()
        history.list_everything(raw=True)
        history.kill_fetcher()
        history.read_everything(raw=False)
        history.end_daemon(gently=False)
        history.start_daemon()
        history.read_everything(raw=True)
    finally:
        history.teardown()
    assert history.tally.reads > 20
