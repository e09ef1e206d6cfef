"""Promise 7: kill -9 at any moment costs only the blocks in flight, and never a wrong byte.

The long run, and what it found, is in docs/reliability.md.
"""

import random

import pytest

from nebfs.units import KIB, MIB
from tests.promises.crashing import crash
from tests.promises.images import mount_of, web_of

pytestmark = [pytest.mark.mounted, pytest.mark.nginx]


def test_kills_at_random_moments_cost_only_what_was_on_its_way(tmp_path):
    report = crash(6, seed=7, home=tmp_path)
    assert report.wrong == []
    assert report.failed == []
    assert report.again == []
    assert report.reads > 100


def test_what_had_arrived_before_a_kill_is_not_fetched_again(tmp_path, home):
    content = random.Random(0).randbytes(4 * MIB)
    with (
        web_of(tmp_path / "web", 1, len(content)) as web,
        mount_of(web, home, tmp_path / "store", 1, "-o", "cache_min_free=0") as mount,
    ):
        path = mount.path / "marketplaces/market/app 0/app 0.raw"
        assert path.read_bytes() == content
        before = web.bytes_sent("/0.raw")
        assert before >= len(content)
        mount.kill()
        mount.start()
        assert path.read_bytes() == content
        # It is asked what is there now; nothing of it is needed.
        assert web.bytes_sent("/0.raw") - before < 128 * KIB, "more than one block"
