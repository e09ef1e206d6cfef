"""The images are made once per session; every test gets a cloud of its own over them."""

import pytest

from nebfs.demo import demonstration_cloud, serve


@pytest.fixture(scope="session")
def cloud_root(tmp_path_factory):
    return tmp_path_factory.mktemp("demonstration")


@pytest.fixture
def cloud(cloud_root):
    return demonstration_cloud(cloud_root)


@pytest.fixture
def servers(cloud):
    with serve(cloud) as running:
        yield running
    assert running.failures() == []
