"""Promise 7: kill -9 at any moment costs only the blocks in flight, and never a wrong byte.

The long run, and what it found, is in docs/reliability.md.
"""

import pytest

from tests.promises.crashing import crash

pytestmark = [pytest.mark.mounted, pytest.mark.nginx]


def test_kills_at_random_moments_cost_only_what_was_on_its_way(tmp_path):
    report = crash(6, seed=7, home=tmp_path)
    assert report.wrong == []
    assert report.failed == []
    assert report.again == []
    assert report.reads > 100
