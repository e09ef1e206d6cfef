"""Openings and closings that somebody gives up in the middle: nothing stays open, nor is it closed
twice.
"""

from __future__ import annotations

import random
import subprocess

import pytest
import trio

from nebfs.blocks import Documents
from nebfs.content import Prober
from nebfs.model import Content, Locator
from tests.promises.cancelling import cancelled_everywhere
from tests.promises.subjects.places import Files, shop

DATA = random.Random(1).randbytes(400_000)
ADDRESS = "http://host/image"


@pytest.fixture
async def made(tmp_path):
    async with shop(tmp_path, Files({ADDRESS: DATA})) as made:
        yield made


async def test_an_opening_that_is_given_up_leaves_its_cache_file_closed(made):
    async def opened():
        reader = await made.open(made.content(ADDRESS))
        with trio.CancelScope(shield=True):
            await reader.aclose()

    async def check():
        made.idle()

    assert (await cancelled_everywhere(opened, check)).cancelled > 1


async def test_a_reader_is_closed_by_somebody_who_is_being_cancelled(made):
    reader = await made.open(made.content(ADDRESS))
    with trio.CancelScope() as scope:
        scope.cancel()
        await reader.aclose()
    made.idle()


async def test_a_chain_that_is_given_up_leaves_its_files_open_to_others(tmp_path):
    below, top = tmp_path / "below.qcow2", tmp_path / "top.qcow2"
    words = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*words, below, "1M"], check=True)
    subprocess.run([*words, "-F", "qcow2", "-b", below, top], check=True)
    first, second = "http://host/below", "http://host/top"
    files = Files({first: below.read_bytes(), second: top.read_bytes()})
    async with shop(tmp_path, files) as made:
        beneath = Content(Locator("http", first), format="qcow2", view="raw")
        chain = Content(Locator("http", second), format="qcow2", view="raw", backing=beneath)
        await (await made.open_disk(chain)).aclose()
        reader = await made.open(made.content(first, format="qcow2"))

        async def opened():
            disk = await made.open_disk(chain)
            with trio.CancelScope(shield=True):
                await disk.aclose()

        async def check():
            assert made.library.open_objects == 1
            assert [file.users for file in made.store.open_files()] == [1]
            assert bytes(await reader.pread(0, 4)) == b"QFI\xfb"

        await cancelled_everywhere(opened, check, made.cold)
        await reader.aclose()
        made.idle()


async def test_what_was_learned_is_saved_at_the_end_though_saving_was_given_up(tmp_path):
    files = Files({ADDRESS: DATA})
    prober = Prober(files, Documents(tmp_path))
    content = Content(Locator("http", ADDRESS))
    await prober.ask(content)
    with trio.CancelScope() as scope:
        scope.cancel()
        await prober.save()
    assert scope.cancelled_caught
    await prober.save()
    next_life = Prober(files, Documents(tmp_path))
    await next_life.load()
    assert next_life.known(content) is not None
