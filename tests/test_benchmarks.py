"""What the harness of scripts/bench makes of figures. Nothing is timed, nothing is mounted."""

import xml.etree.ElementTree as ET

import pytest

from nebfs.units import MIB
from scripts.benchmarks import chart, disks, table
from scripts.benchmarks.bars import BARS, best_rclone, judge
from scripts.benchmarks.cases.inside import OurReader
from scripts.benchmarks.cases.latency import TRACES, touched, trace_path
from scripts.benchmarks.images import Image, make_images
from scripts.benchmarks.peers.everyone import everyone
from scripts.benchmarks.processes import Failed, Mismatch, cpu_seconds, family, memory, run
from scripts.benchmarks.report import Report
from scripts.benchmarks.rounds import Bench, Result, alternate
from scripts.benchmarks.sites import SERVER


def result(case="cold", main="MiB/s", more_is_better=True, baseline="curl", **samples):
    made = Result(case, f"Title of {case}", main, more_is_better, baseline)
    for peer, values in samples.items():
        for value in values:
            made.add(peer.replace("_", " "), {main: value, "CPU s/GiB": 1000 / value})
    return made


@pytest.fixture
def cold():
    return result(
        curl=[1000, 1400, 1200], nebfs=[900, 960, 100], rclone=[500], rclone_streams=[600]
    )


def verdicts(results):
    return {verdict.bar.text: verdict for verdict in judge(results)}


def test_a_bar_is_a_ratio_of_medians(cold):
    verdict = verdicts({"cold": cold})["cold sequential, loopback, to curl"]
    assert verdict.measured == 900 / 1200
    assert verdict.met is True


def test_rclone_stands_for_its_best_configuration(cold):
    assert best_rclone(cold, most=True) == "rclone streams"
    assert verdicts({"cold": cold})["cold sequential, loopback, to the best rclone"].measured == 1.5


def test_a_case_that_was_not_run_leaves_its_bars_open(cold):
    verdict = verdicts({"cold": cold})["warm sequential, to passthrough_hp"]
    assert verdict.measured is None
    assert verdict.met is None


def test_a_bar_with_an_upper_limit():
    boot = result("boot-raw-link", "s", False, "", nebfs=[2.0], rclone_read_ahead=[4.0], rclone=[5])
    verdict = verdicts({"boot-raw-link": boot})["recorded boot (raw), link, to the best rclone"]
    assert verdict.measured == 0.5
    assert verdict.met is True


def test_a_table_has_medians_ratios_and_the_best_first(cold):
    head, *body = table.rows(cold)
    assert head == ["peer", "MiB/s", "CPU s/GiB", "range", "/ curl", "runs"]
    assert [row[0] for row in body] == ["curl", "nebfs", "rclone streams", "rclone"]
    assert body[1] == ["nebfs", "900", "1.11", "100 to 960", "0.75", "3"]


def test_tables_are_aligned_and_markdown_is_escaped():
    rows = [["peer", "x"], ["a|b", "10"]]
    assert table.plain(rows) == "peer   x\na|b   10"
    assert table.markdown(rows) == "| peer | x |\n| --- | ---: |\n| a\\|b | 10 |"


def test_the_picture_is_well_formed_and_shows_every_peer(cold):
    memory = result("memory", "MiB", False, "", nebfs=[90], rclone=[200])
    root = ET.fromstring(chart.draw({"cold": cold, "memory": memory}))
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("nebfs") == 3  # two bars and the legend
    assert "rclone streams" in words
    assert "less is better" in " ".join(words)


def test_a_report_names_what_was_not_run_and_why(cold):
    cold.remarks["httpdirfs"] = "not installed"
    report = Report({"kernel": "6"}, {"python": "3"}, results={"cold": cold})
    report.not_run["cold-link"] = "only root may make network namespaces"
    report.verdicts = judge(report.results)
    for text in (report.text(), report.markdown()):
        assert "only root" in text
        assert "httpdirfs: not installed" in text
        assert "NOT MET" not in text.split("cold sequential, loopback, to curl")[1].split("\n")[0]
    document = report.document()
    assert document["cases"]["cold"]["peers"]["nebfs"]["MiB/s"]["samples"] == [900, 960, 100]
    assert len(document["bars"]) == len(BARS)


class Scripted:
    """A peer of which every run brings the next of some figures, or failures."""

    def __init__(self, name, *script, missing=None):
        self.name, self.script, self._missing = name, list(script), missing

    def missing(self):
        return self._missing


@pytest.fixture
def play():
    def play(*peers, runs=3):
        bench = Bench(None, runs, False, [], None, None, peers[0], lambda text: None)
        made = Result("cold", "", "MiB/s", more_is_better=True, baseline="curl")

        def once(peer):
            step = peer.script.pop(0)
            if isinstance(step, Exception):
                raise step
            order.append(peer.name)
            return {"MiB/s": step}

        order = []
        alternate(bench, made, peers, once)
        return made, order

    return play


def test_peers_run_in_turn(play):
    made, order = play(Scripted("a", 1, 2, 3), Scripted("b", 4, 5, 6))
    assert order == ["a", "b"] * 3
    assert made.samples["b"]["MiB/s"] == [4, 5, 6]


def test_a_peer_that_fails_is_out_with_its_reason_and_the_others_go_on(play):
    made, order = play(Scripted("a", 1, Failed("boom")), Scripted("b", 4, 5, 6))
    assert order == ["a", "b", "b", "b"]
    assert made.remarks == {"a": "boom"}
    assert not made.wrong


def test_a_peer_that_is_missing_is_named(play):
    made, order = play(Scripted("a", 1, 2, 3), Scripted("b", missing="not installed"))
    assert order == ["a"] * 3
    assert made.remarks == {"b": "not installed"}


def test_wrong_bytes_fail_the_run(play):
    made, _ = play(Scripted("a", Mismatch("at 7")), Scripted("b", 4, 5, 6))
    assert made.wrong
    assert "WRONG BYTES" in made.remarks["a"]


def test_a_command_that_hangs_is_ended(tmp_path):
    with pytest.raises(Failed, match="not finished after 0 s"):
        run("sleep", "60", limit=0.05)


def test_a_command_that_fails_says_its_last_word():
    with pytest.raises(Failed, match="exit 3: second"):
        run("sh", "-c", "echo first >&2; echo second >&2; exit 3")


def test_images_differ_from_each_other_and_have_their_digest(tmp_path):
    first, second = make_images(tmp_path, [3 << 20, 5000], digests=True)
    assert first.path.stat().st_size == first.size == 3 << 20
    assert second.path.stat().st_size == 5000
    assert first.path.read_bytes()[:5000] != second.path.read_bytes()
    assert len(first.md5) == 32


def test_a_process_is_watched_with_its_children():
    import os

    assert os.getpid() in family(os.getppid())
    assert cpu_seconds(os.getpid()) > 0
    assert memory(os.getpid()) > 1 << 20


@pytest.mark.parametrize("name", TRACES)
def test_traces_are_there_and_reach_no_further_than_their_image(name):
    from scripts.benchmarks.__main__ import QUICK_SIZES, SIZES

    reads = [line.split(",") for line in trace_path(name).read_text().splitlines()[1:]]
    last = max(int(offset) + int(length) for _, offset, length in reads)
    number = 5 + TRACES.index(name)
    assert last <= SIZES[number] << 20 <= QUICK_SIZES[number] << 20
    assert 30 << 20 < touched(trace_path(name)) < 40 << 20


def test_bytes_touched_twice_count_once(tmp_path):
    trace = tmp_path / "trace.csv"
    trace.write_text("t,offset,length\n0,0,100\n0,50,100\n0,500,10\n0,0,10\n")
    assert touched(trace) == 160


def test_the_address_on_the_link_is_the_one_that_it_is_given():
    from scripts.benchmarks.toolbox import HERE

    assert f'"{SERVER}"' in (HERE / "link.c").read_text()


def test_peers_have_names_of_their_own():
    names = [peer.name for peer in everyone()]
    assert len(set(names)) == len(names)


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    disks.make_disk(path, 24 * MIB)
    return path


@pytest.mark.parametrize("layout", disks.LAYOUTS)
def test_every_layout_has_the_same_disk_inside(disk, tmp_path, layout):
    path = tmp_path / "disk.qcow2"
    disks.make_qcow2(disk, layout, path)
    run("qemu-img", "check", path)
    run("qemu-img", "compare", disk, path)
    size = disk.stat().st_size
    assert OurReader().seconds(Image(1, path, size, ""), disk) > 0
    if layout == "fragmented":
        extents = run("qemu-img", "map", path).splitlines()[1:]
        assert len(extents) > size / disks.CLUSTER / 2


def test_wrong_bytes_of_a_reader_are_noticed(disk, tmp_path):
    other, path = tmp_path / "other", tmp_path / "disk.qcow2"
    data = disk.read_bytes()
    other.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    disks.make_qcow2(disk, "zlib", path)
    with pytest.raises(Mismatch):
        OurReader().seconds(Image(1, path, disk.stat().st_size, ""), other)
