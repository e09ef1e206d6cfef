"""The appliance service: which catalogue, JSON or a page, redirects and their refusals."""

import copy
import http.client
import json
from urllib.parse import urlsplit

import pytest

from nebfs.demo.catalogue import appliance_id

ONE = {"User-Agent": "OpenNebula 7.4.0 (nebfs)", "Accept": "application/json"}


@pytest.fixture
def ask(servers):
    address = urlsplit(servers.appliance_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)

    def request(path, method="GET", headers=ONE):
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    yield request
    connection.close()


@pytest.mark.parametrize("path", ["/appliance", "//appliance", "/appliance/"])
def test_listing(ask, cloud, path):
    status, headers, body = ask(path)
    listed = json.loads(body)
    assert status == 200
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
    assert listed["sEcho"] == 1
    assert [a["_id"]["$oid"] for a in listed["appliances"]] == list(cloud.appliances)
    assert [a["name"] for a in listed["appliances"] if a.get("type") == "VMTEMPLATE"] == [
        "Alpine with Data"
    ]


@pytest.mark.parametrize(
    ("agent", "sees_old", "sees_new"),
    [
        ("OpenNebula 6.8.0", True, False),
        ("OpenNebula 7.4.0 (nebfs)", True, True),
        ("OpenNebula 9.9", True, True),  # unknown: the newest catalogue
        ("curl/8", True, True),
        ("nebfs OpenNebula 6.8", True, True),  # the version counts at the beginning only
    ],
)
def test_user_agent_selects_the_catalogue(ask, cloud, agent, sees_old, sees_new):
    new = copy.deepcopy(cloud.appliances[appliance_id(0)])
    new["_id"]["$oid"], new["opennebula_version"] = "new", "7.2, 7.4"
    cloud.appliances["new"] = new
    ids = [
        a["_id"]["$oid"]
        for a in json.loads(ask("/appliance", headers={"User-Agent": agent})[2])["appliances"]
    ]
    assert (appliance_id(1) in ids, "new" in ids) == (sees_old, sees_new)


@pytest.mark.parametrize(
    ("headers", "is_json"),
    [
        ({"User-Agent": "x opennebula y", "Accept": "*/*"}, True),
        ({"User-Agent": "curl/8", "Accept": "application/json"}, True),
        ({"User-Agent": "curl/8", "Accept": "*/*"}, False),
        ({"User-Agent": "Mozilla", "Accept": "text/html,application/xml"}, False),
        ({"User-Agent": "nebfs"}, False),
    ],
)
def test_one_appliance_is_json_or_a_page_for_people(ask, headers, is_json):
    status, answer, body = ask(f"/appliance/{appliance_id(0)}", headers=headers)
    assert status == 200
    assert answer["Content-Type"].startswith("application/json" if is_json else "text/html")
    if is_json:
        assert json.loads(body)["name"] == "Alpine Linux 3.20"


def test_unknown_appliance_is_404(ask):
    assert ask("/appliance/nothing")[0] == 404
    assert ask("/appliance/nothing/download/0")[0] == 404
    assert ask("/elsewhere")[0] == 404


@pytest.mark.parametrize("path", ["download", "download/", "download/0"])
@pytest.mark.parametrize(("method", "status"), [("GET", 302), ("HEAD", 303)])
def test_download_redirects_with_the_virtual_size(ask, servers, path, method, status):
    answer = ask(f"/appliance/{appliance_id(0)}/{path}", method)
    assert answer[0] == status
    assert answer[1]["Location"] == f"{servers.files_url}/public/alpine.qcow2"
    assert answer[1]["OpenNebula-AppMarket-Size"] == str(64 << 20)


def test_every_file_of_an_appliance_can_be_downloaded(ask):
    base = f"/appliance/{appliance_id(4)}/download"
    assert ask(f"{base}/1")[1]["Location"].endswith("/public/two.raw")
    assert ask(f"{base}/2")[0] == 404


def test_template_without_files_is_500(ask):
    assert ask(f"/appliance/{appliance_id(6)}/download/0")[0] == 500


def test_file_of_size_0_or_without_url_is_404(ask, cloud):
    cloud.appliances[appliance_id(0)]["files"][0]["size"] = 0
    assert ask(f"/appliance/{appliance_id(0)}/download/0")[0] == 404
    cloud.appliances[appliance_id(1)]["files"][0].pop("url")
    assert ask(f"/appliance/{appliance_id(1)}/download/0")[0] == 404


def test_catalogue_and_files_agree(ask, cloud):
    for appliance in json.loads(ask("/appliance")[2])["appliances"]:
        for file in appliance.get("files", []):
            path = urlsplit(file["url"]).path
            assert cloud.published[path].exists()
            assert file["md5"] == file["checksum"]["md5"]
            assert file["size"] % (1 << 20) == 0 or file["type"] == "CDROM"


def test_service_can_fail_and_counts(ask, servers):
    servers.appliances.fail_next = 1
    assert ask("/appliance")[0] == 503
    assert ask("//appliance")[0] == 200
    assert servers.appliances.requests["/appliance"] == 2
