"""The page's tables: made of what passed, and of tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.hypervisors.tables import crossed, listed, read, written

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs/hypervisors.md"

RESULTS = """\
<testsuites><testsuite>
<testcase classname="tests.hypervisors.test_qemu" name="test_a[x-1]"><properties>
<property name="seen" value='["modes", "none", "raw", ""]'/></properties></testcase>
<testcase classname="tests.hypervisors.test_qemu" name="test_a[x-2]"><properties>
<property name="seen" value='["modes", "none", "qcow2", ""]'/></properties>
<failure message="bad"/></testcase>
<testcase classname="tests.hypervisors.test_qemu" name="test_a[y-2]"><properties>
<property name="seen" value='["modes", "writeback", "qcow2", ""]'/></properties></testcase>
<testcase classname="tests.hypervisors.test_tools" name="test_b"><properties>
<property name="seen" value='["uses", "info", "raw", "qemu-img version 7.2.22 (Debian 1:7.2)"]'/>
</properties></testcase>
<testcase classname="tests.hypervisors.test_tools" name="test_c"/>
</testsuite></testsuites>
"""


@pytest.fixture
def seen(tmp_path):
    (tmp_path / "results.xml").write_text(RESULTS)
    return list(read(tmp_path / "results.xml"))


def test_what_failed_is_in_no_table(seen):
    assert crossed(seen, "modes", "mode").splitlines() == [
        "| mode | raw | qcow2 |",
        "| --- | --- | --- |",
        "| none | yes |  |",
        "| writeback |  | yes |",
        "",
        "Tests: `test_qemu.py::test_a`",
    ]


def test_a_use_has_its_program_and_its_test(seen):
    row = listed(seen, "uses").splitlines()[-1]
    assert row == "| info | raw | QEMU 7.2.22 | `test_tools.py::test_b` |"


def test_only_what_is_between_the_marks_is_replaced():
    page = "a\n<!-- modes -->\nold\n<!-- end -->\nb\n<!-- end -->\n"
    assert written(page, {"modes": "new\\1"}) == (
        "a\n<!-- modes -->\nnew\\1\n<!-- end -->\nb\n<!-- end -->\n"
    )
    with pytest.raises(AssertionError, match="0 places"):
        written(page, {"others": ""})


def test_every_test_that_the_page_names_is_there():
    named = set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text()))
    assert named
    for file, test in named:
        assert f"\ndef {test}(" in (HERE / file).read_text(), f"{file}::{test}"
