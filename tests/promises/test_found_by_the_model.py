"""What histories of the model have found, each as short as it can be told."""

from __future__ import annotations

import pytest

from tests.promises.model.judging import Tally
from tests.promises.model.rules import Histories


@pytest.fixture
def history():
    """A cloud and a daemon in this process; what is asked of them is judged as by the model."""
    history = Histories()
    Histories.tally = Tally()
    history.begin(seed=0)
    yield history
    history.teardown()


def compressed(history):
    """The app that is a compressed image, without a checksum that would tell of other bytes."""
    app = next(one for one in history.reference.apps.values() if one.current.kind == "gz")
    app.with_md5 = False
    history.replace_one(app, "same", quietly=False)
    history.refresh()
    return app


def raw_path(history, app):
    place, shown = next(one for one in history.shown() if one[1].thing is app)
    return history.path_of(place, shown, raw=True)


def read(history, path, length):
    fh, _ = history.mount.open(path)
    try:
        return history.mount.read(fh, 0, length)
    finally:
        history.mount.release(fh)


def test_a_login_that_is_refused_opens_nothing_that_the_kernel_has_found_before(history):
    history.read_everything(raw=False)
    history.password_changes(refused=True)
    history.refresh()
    history.read_everything(raw=False)
    assert history.tally.errors == {"EACCES": 4}


def test_a_compressed_image_that_was_replaced_is_opened_anew_on_the_raw_face(history):
    app = compressed(history)
    path = raw_path(history, app)
    assert read(history, path, 5) == app.current.disk[:5]
    history.time_passes(seconds=70)
    history.replace_one(app, "longer", quietly=True)
    assert read(history, path, 5) == app.current.disk[:5]


def test_a_compressed_image_that_was_replaced_before_it_was_measured_can_be_opened(history):
    app = compressed(history)
    path = raw_path(history, app)
    history.list_everything(raw=True)
    history.replace_one(app, "longer", quietly=True)
    history.drop_cache()
    assert read(history, path, 5) == app.current.disk[:5]
