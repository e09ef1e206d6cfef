"""Promise 11: hostile input is an error, not a way in, bounded in time and memory.

What is replayed here is where the long runs begin, and what they found: see fuzzing/.
"""

from pathlib import Path

import pytest

from tests.promises.fuzzing import TARGETS
from tests.promises.fuzzing.judging import target

CORPORA = Path(__file__).parent / "corpora"


@pytest.mark.parametrize("name", TARGETS)
def test_each_known_input_is_an_answer_or_an_error_of_ours(name):
    one = target(name)
    inputs = sorted((CORPORA / name).iterdir())
    assert inputs
    for path in inputs:
        try:
            one(path.read_bytes())
        except Exception as exc:
            raise AssertionError(f"{path.name} of {name}") from exc
