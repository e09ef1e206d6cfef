"""Chunks of any size become slots: the bytes, the checksums, the holes, and faults of the disk."""

from __future__ import annotations

import errno
import os
import random

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from nebfs.errors import CacheFault
from nebfs.fetcher import slots as module
from nebfs.fetcher.slots import BUFFER_SIZE, Buffers, SlotWriter

SLOT = 64


def feed(writer, chunk):
    while chunk:
        space = writer.space()
        count = min(len(space), len(chunk))
        if not count:
            return
        space[:count] = chunk[:count]
        writer.advance(count)
        writer.settle()
        chunk = chunk[count:]


def write(fd, data, chunks, *, start=0, stop=None, seed=0, slots_in_buffer=3, size=None, since=0.0):
    reports = []
    writer = SlotWriter(
        fd,
        bytearray(slots_in_buffer * SLOT),
        start=start,
        stop=len(data) if stop is None else stop,
        slot_size=SLOT,
        content_size=len(data) if size is None else size,
        seed=seed,
        since=since,
        report=lambda filled: reports.append(list(filled)),
    )
    for chunk in chunks:
        feed(writer, chunk)
    writer.flush()
    return reports


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from([b"\0" * SLOT, b"\xff" * SLOT, b"\0" * (SLOT - 1) + b"x"]), max_size=9
    ),
    st.integers(0, SLOT - 1),
    st.lists(st.integers(1, 5 * SLOT), min_size=1, max_size=8),
    st.integers(0, 2**64 - 1),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_any_chunks(parts, short, sizes, seed, first, slots_in_buffer):
    data = b"".join(parts) + b"s" * short
    start = min(first * SLOT, len(data) // SLOT * SLOT)
    chunks, at = [], start
    while at < len(data):
        count = sizes[len(chunks) % len(sizes)]
        chunks.append(data[at : at + count])
        at += count
    fd = os.memfd_create("target")
    try:
        os.truncate(fd, len(data))
        reports = write(fd, data, chunks, start=start, seed=seed, slots_in_buffer=slots_in_buffer)
        filled = [one for report in reports for one in report]
        assert [one.slot for one in filled] == list(range(start // SLOT, -(-len(data) // SLOT)))
        for one in filled:
            piece = data[one.slot * SLOT : (one.slot + 1) * SLOT]
            assert one.length == len(piece)
            assert one.zero == (piece.count(0) == len(piece))
            assert one.checksum == xxhash.xxh3_64_intdigest(piece, (seed + one.slot) % 2**64)
        assert os.pread(fd, len(data) + 1, 0) == bytes(start) + data[start:]
    finally:
        os.close(fd)


def test_neighbours_go_out_in_one_write(monkeypatch):
    written = []
    monkeypatch.setattr(
        module.os, "pwrite", lambda fd, data, at: written.append((at, len(data))) or len(data)
    )
    data = b"a" * (2 * SLOT) + bytes(SLOT) + b"b" * (3 * SLOT)
    write(-1, data, [data], slots_in_buffer=8)
    assert written == [(0, 2 * SLOT), (3 * SLOT, 3 * SLOT)]


def test_short_writes_are_continued(monkeypatch):
    fd = os.memfd_create("target")
    real = os.pwrite
    monkeypatch.setattr(module.os, "pwrite", lambda fd, data, at: real(fd, data[:7], at))
    data = random.Random(1).randbytes(5 * SLOT)
    write(fd, data, [data])
    assert os.pread(fd, len(data), 0) == data
    os.close(fd)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_fault_of_the_disk_reports_what_is_written(monkeypatch, number):
    def pwrite(fd, data, at):
        if at:
            raise OSError(number, os.strerror(number))
        return len(data)

    monkeypatch.setattr(module.os, "pwrite", pwrite)
    data = b"a" * SLOT + bytes(SLOT) + b"b" * SLOT
    reports = []
    writer = SlotWriter(
        -1, bytearray(8 * SLOT), start=0, stop=len(data), slot_size=SLOT,
        content_size=len(data), seed=0, since=0.0, report=reports.extend,
    )  # fmt: skip
    feed(writer, data)
    with pytest.raises(CacheFault) as caught:
        writer.flush()
    assert caught.value.facts["errno"] == number
    assert [one.slot for one in reports] == [0, 1]


def test_what_was_under_way_when_a_disk_was_slow_does_not_wait_for_it_in_turn(monkeypatch):
    now, written = [100.0], []

    def pwrite(fd, data, at):
        now[0] += 2.1
        written.append(at)
        return len(data)

    monkeypatch.setattr(module, "_slow", {})
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.os, "pwrite", pwrite)
    fd = os.memfd_create("target")
    for since in (99.0, 100.0, 102.0):
        with pytest.raises(CacheFault, match="the cache disk is slow"):
            write(fd, b"a" * SLOT, [b"a" * SLOT], since=since)
    assert written == [0]
    with pytest.raises(CacheFault):  # asked after that: it may be well again
        write(fd, b"a" * SLOT, [b"a" * SLOT], since=102.2)
    assert written == [0, 0]
    os.close(fd)


def test_part_of_a_slot_is_not_filled():
    fd = os.memfd_create("target")
    data = b"a" * (4 * SLOT)
    reports = write(fd, data, [data], stop=SLOT + 10)
    assert [one.slot for report in reports for one in report] == [0]
    assert os.fstat(fd).st_size == SLOT
    os.close(fd)


def test_buffers_are_whole_slots_and_reused():
    buffers = Buffers()
    big = buffers.borrow(128 << 10, 4 << 20)
    assert len(big) == BUFFER_SIZE
    buffers.give_back(big)
    assert buffers.borrow(128 << 10, 4 << 20) is big
    assert len(buffers.borrow(128 << 10, 128 << 10)) == 128 << 10
    assert len(buffers.borrow(4 << 20, 100)) == 4 << 20
    assert len(buffers.borrow(3000, 1 << 30)) == 3000 * 256
