"""Sizes and durations: what is read, what is written, and that one undoes the other."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebfs.units import (
    GIB,
    KIB,
    MIB,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512K", 512 * KIB),
        ("512 kib", 512 * KIB),
        ("1.5 GiB", 3 * GIB // 2),
        ("10G", 10 * GIB),
        ("10GB", 10 * GIB),
        (" 2m ", 2 * MIB),
        ("100b", 100),
        ("1T", 1024 * GIB),
        ("1p", 1024 * 1024 * GIB),
        (7, 7),
    ],
)
def test_sizes_are_binary_whatever_the_spelling(text, count):
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "G", "-1", "1X", "1 2", "1..5G", "0x10", "1e9", "ten"])
def test_what_is_no_size(text):
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30", 30), ("250ms", 0.25), ("5m", 300), ("1.5h", 5400), ("2 d", 172800), (3, 3), (0.5, 0.5)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1w", "1h30m", "inf", "nan"])
def test_what_is_no_duration(text):
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.00 KiB"),
        (3 * MIB // 2, "1.50 MiB"),
        (10 * GIB, "10.0 GiB"),
        (512 * MIB, "512 MiB"),
    ],
)
def test_sizes_are_written_for_people(count, text):
    assert format_size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.25, "250 ms"),
        (12, "12 s"),
        (300, "5 min"),
        (3 * 3600, "3 h"),
        (172800, "2 d"),
    ],
)
def test_durations_are_written_for_people(seconds, text):
    assert format_duration(seconds) == text


@settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(st.integers(min_value=0, max_value=2**53))
def test_a_plain_number_of_bytes_is_read_exactly(count):
    assert parse_size(str(count)) == count


@settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(st.integers(min_value=0, max_value=2**60))
def test_what_is_written_is_read_back_nearly(count):
    assert parse_size(format_size(count)) == pytest.approx(count, rel=0.006, abs=0)


@settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(st.integers(min_value=0, max_value=8191), st.sampled_from(["K", "m", "GB", "TiB", "pib"]))
def test_a_unit_multiplies(number, unit):
    power = "kmgtp".index(unit[0].lower()) + 1
    assert parse_size(f"{number}{unit}") == number * 1024**power


@settings(deadline=None)  # of one example: what is slow here is a busy machine
@given(st.text(st.characters(codec="ascii"), max_size=12))
def test_any_ascii_text_is_a_value_or_a_value_error(text):
    for parse in (parse_size, parse_duration):
        try:
            assert parse(text) >= 0
        except ValueError as exc:
            assert repr(text) in str(exc)


@pytest.mark.parametrize("text", ["9" * 400, "8192P", str(1 << 63)])
def test_a_size_that_no_file_can_have_is_refused(text):
    with pytest.raises(ValueError, match="more than any file can hold"):
        parse_size(text)


def test_a_count_of_bytes_is_exact_beyond_what_a_float_holds():
    assert parse_size("9007199254740993") == 9007199254740993


@pytest.mark.parametrize("text", ["5\u017f", "5\u212a"])  # fold to s and k
def test_letters_that_fold_to_a_unit_are_none(text):
    with pytest.raises(ValueError, match="is not a"):
        parse_duration(text)


def test_almost_a_second_is_a_second():
    assert format_duration(0.9999) == "1 s"
