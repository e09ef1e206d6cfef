"""``nebfs verify``: its exit codes are its answer."""

import pytest

from nebfs.daemon.web import as_lines
from nebfs.errors import NebfsError, UserError

END = {"event": "end", "algorithm": "sha256", "found": "ab12", "published": "ab12", "same": True}


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        (END, 0, "it is what was published (sha256 ab12)"),
        (END | {"same": False, "published": "ff"}, 1, "DIFFERS"),
        (END | {"same": None, "published": ""}, 0, "ab12  "),
        (NebfsError("its place is broken"), 69, "its place is broken"),
        (UserError("d is a directory: name an image"), 2, "d is a directory"),
    ],
)
def test_the_answer(invoke, answering, end, code, words):
    async def handler(request):
        async def said():
            yield {"event": "progress", "size": 10, "here": 5}
            if isinstance(end, Exception):
                raise end
            yield end

        return as_lines(said())

    done = invoke("verify", answering({("POST", "/v1/verify"): handler}) / "d")
    assert done.exit_code == code, done.output
    assert words in done.output


def test_what_is_in_no_mount(invoke, tmp_path):
    assert invoke("verify", tmp_path, "--run-dir", tmp_path).exit_code == 3
