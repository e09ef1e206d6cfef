"""The demonstration cloud seen through its front-end, and what changing it does."""

import http.client
import threading
import time
import xml.etree.ElementTree as ET
import xmlrpc.client

import pytest

from nebfs.demo import DemonstrationServers
from nebfs.demo.cloud import digests
from nebfs.demo.containers import CONTAINERS
from nebfs.demo.demonstration import ADDON, DEFAULT, PRIVATE_HTTP
from nebfs.demo.records import AppRecord, ImageRecord
from nebfs.errors import Missing
from nebfs.model import AppState, ImageState, Snapshot, Template

ONEADMIN = "oneadmin:opennebula"


class Site:
    """The calls a client makes."""

    def __init__(self, servers: DemonstrationServers) -> None:
        self.url = servers.frontend_url

    def call(self, method, *parameters, session=ONEADMIN):
        with xmlrpc.client.ServerProxy(self.url) as proxy:
            return getattr(proxy.one, method)(session, *parameters)

    def pool(self, method, *parameters, session=ONEADMIN):
        good, text, *_ = self.call(method, *parameters, session=session)
        assert good, text
        return {int(e.findtext("ID")): e for e in ET.fromstring(text)}

    def apps(self, session=ONEADMIN):
        return self.pool("marketapppool.info", -2, -1, -1, session=session)

    def images(self, session=ONEADMIN):
        return self.pool("imagepool.info", -2, -1, -1, session=session)


@pytest.fixture
def site(servers):
    return Site(servers)


def test_every_reference_leads_somewhere(site, servers):
    markets, apps = site.pool("marketpool.info"), site.apps()
    stores, images = site.pool("datastorepool.info"), site.images()
    for number, app in apps.items():
        market = markets[int(app.findtext("MARKETPLACE_ID"))]
        assert market.findtext("NAME") == app.findtext("MARKETPLACE")
        assert str(number) in [e.text for e in market.find("MARKETPLACEAPPS")]
    for number, image in images.items():
        store = stores[int(image.findtext("DATASTORE_ID"))]
        assert store.findtext("NAME") == image.findtext("DATASTORE")
        assert str(number) in [e.text for e in store.find("IMAGES")]
    assert [e.text for e in stores[ADDON].find("IMAGES")] == ["20"]
    whole = site.call("marketapppool.info", -2, -1, -1)[1] + site.call("zonepool.info")[1]
    assert servers.frontend_url in whole
    assert servers.appliance_url in whole
    assert servers.files_url in whole
    for token in servers.cloud.origins:
        assert f"{{{token}}}" not in whole


def test_hostile_names_arrive_as_they_are(site):
    names = {app.findtext("NAME") for app in site.apps().values()}
    assert {"..", "Slash/in name", '100% ñ"and" <b>'} <= names
    assert {"..", ".hidden 50%2F50"} <= {i.findtext("NAME") for i in site.images().values()}


def test_there_are_apps_and_images_in_every_state(site):
    assert {int(a.findtext("STATE")) for a in site.apps().values()} == {
        AppState.READY,
        AppState.LOCKED,
        AppState.ERROR,
        AppState.DISABLED,
    }
    images = site.images()
    assert {int(i.findtext("STATE")) for i in images.values()} == {
        ImageState.READY,
        ImageState.LOCKED,
        ImageState.ERROR,
    }
    assert images[5].findtext("SOURCE") == ""
    assert "404" in images[5].findtext("TEMPLATE/ERROR")


def test_sources_of_images_are_files_on_this_machine(site, servers):
    source = site.images()[2].findtext("SOURCE")
    assert "//datastores/1/" in source
    with open(source, "rb") as file:
        assert file.seek(0, 2) == 4 << 30


def test_vm_template_and_service_name_their_parts(site):
    apps = site.apps()
    disks = [d.findtext("APP") for d in apps[6].findall("TEMPLATE/DISK")]
    assert disks == ["Alpine Linux 3.20", "Data Disk"]
    roles = [(r.findtext("NAME"), r.findtext("APP")) for r in apps[7].findall("TEMPLATE/ROLE")]
    assert roles == [("front", "Alpine with Data"), ("worker", "Alpine with Data")]


def test_carol_sees_what_permission_bits_give_to_others(site):
    carol = "carol:carolpass"
    assert set(site.pool("marketpool.info", session=carol)) == {0, CONTAINERS}
    assert site.pool("datastorepool.info", session=carol) == {}
    assert set(site.images(carol)) == {0, 3}
    assert 20 in site.apps(carol)
    assert 21 not in site.apps(carol)
    assert site.call("marketapp.info", 21, False, session=carol)[2] == 512


def test_another_users_document_is_for_administrators(site):
    assert "<NAME>alice</NAME>" in site.call("user.info", 2, False)[1]
    refused = site.call("user.info", 0, False, session="alice:alicepass")
    assert refused[:3] == [
        False,
        "[one.user.info] User [2] : Not authorized to perform USE USER [0].",
        512,
    ]
    assert site.call("user.info", 99, False)[2] == 1024


def test_pages_and_ranges(site):
    everything = list(site.apps())
    assert everything == sorted(everything, reverse=True)
    pages = []
    while page := list(site.pool("marketapppool.info", -2, len(pages), -4)):
        pages += page
    assert pages == everything
    assert list(site.pool("marketapppool.info", -2, 2, 5)) == [5, 4, 3, 2]
    later = [number for number in everything if number >= 25]
    assert list(site.pool("marketapppool.info", -2, 25, -1)) == later
    assert list(site.pool("imagepool.info", 2, -1, -1)) == [9]  # the images of user 2


def test_added_removed_and_renamed_objects_show(site, cloud):
    cloud.add_app(AppRecord(77, "new app", marketplace_id=PRIVATE_HTTP))
    cloud.add_image(ImageRecord(78, "new image", datastore_id=DEFAULT))
    cloud.remove_app(0)
    cloud.remove_image(1)
    cloud.rename_app(2, "renamed app")
    cloud.rename_image(3, "renamed image")
    apps, images = site.apps(), site.images()
    assert apps[77].findtext("MARKETPLACE") == "Private HTTP"
    assert images[78].findtext("DATASTORE") == "default"
    assert 0 not in apps
    assert 1 not in images
    assert apps[2].findtext("NAME") == "renamed app"
    assert images[3].findtext("NAME") == "renamed image"
    with pytest.raises(Missing):
        cloud.remove_app(0)


def test_states_change_as_oned_changes_them(site, cloud):
    cloud.set_app_state(20, AppState.ERROR, "no space")
    cloud.set_image_state(0, ImageState.LOCKED)
    app = site.apps()[20]
    assert app.findtext("STATE") == "3"
    assert app.findtext("TEMPLATE/ERROR") == "no space"
    assert site.images()[0].findtext("SOURCE") == ""
    cloud.set_app_state(20, AppState.READY)
    assert site.apps()[20].find("TEMPLATE/ERROR") is None


def test_one_emoji_fails_the_whole_pool_but_not_ranges_around_it(site, cloud):
    cloud.poison_app(4)
    with pytest.raises(xmlrpc.client.Fault, match="Basic Multilingual Plane") as caught:
        site.apps()
    assert caught.value.faultCode == -500
    assert 3 in site.pool("marketapppool.info", -2, 0, 3)
    assert 5 in site.pool("marketapppool.info", -2, 5, -1)
    assert "<ID>4</ID>" in site.call("market.info", 0, False)[1]


def test_changed_password_is_asked_for(site, cloud):
    cloud.set_password("oneadmin", "new:with colon")
    assert site.call("system.version")[2] == 256
    assert site.call("system.version", session="oneadmin:new:with colon")[:2] == [True, "7.4.0"]


def test_disabled_marketplace_loses_its_apps(site, cloud):
    cloud.disable_marketplace(PRIVATE_HTTP)
    assert site.pool("marketpool.info")[PRIVATE_HTTP].findtext("STATE") == "1"
    left = {a.findtext("MARKETPLACE_ID") for a in site.apps().values()}
    assert {"0", "1"} <= left
    assert str(PRIVATE_HTTP) not in left


@pytest.mark.parametrize("number", [1, 20])
def test_replaced_content_has_new_digests_under_the_same_source(site, cloud, number, tmp_path):
    before = site.apps()[number]
    file = tmp_path / "version-2.raw"
    file.write_bytes(b"second version" * 1000)
    cloud.replace_app_content(number, file, "2.0")
    after = site.apps()[number]
    assert after.findtext("SOURCE") == before.findtext("SOURCE")
    assert after.findtext("MD5") == digests(file)[0] != before.findtext("MD5")
    assert after.findtext("VERSION") == "2.0"
    assert file in cloud.published.values()


def test_front_end_can_be_slow_and_can_fail(site, servers):
    servers.front_end.fail_next = 1
    # Not with xmlrpc.client, which leaves the connection open after such an answer.
    connection = http.client.HTTPConnection(site.url.split("/")[2], timeout=10)
    connection.request("POST", "/RPC2", "<methodCall/>")
    with connection.getresponse() as answer:
        assert answer.status == 503
    connection.close()
    servers.front_end.delay = 0.05
    before = time.monotonic()
    assert site.call("system.version")[0]
    assert time.monotonic() - before >= 0.05
    assert servers.front_end.calls["one.system.version"] == 1


def test_text_that_xml_must_escape_survives(site, cloud):
    text = "a & b <c> ]]> \"d\" 'e' é \r end"
    cloud.rename_image(0, "a & b <c> \"d\" 'e' é")
    cloud.image(0).template = Template((("DESCRIPTION", text),))
    image = site.images()[0]
    assert image.findtext("NAME") == "a & b <c> \"d\" 'e' é"
    # The carriage return travels through XML-RPC; the inner document's parser then normalises it.
    assert image.findtext("TEMPLATE/DESCRIPTION") == text.replace("\r", "\n")


def test_snapshots_are_shown_with_sorted_keys(site, cloud):
    cloud.image(1).snapshots = (
        Snapshot(0, "before", 1000, 64, -1, active=False),
        Snapshot(1, "", 2000, 64, 0, active=True),
    )
    first, second = site.images()[1].findall("SNAPSHOTS/SNAPSHOT")
    assert [e.tag for e in first] == ["CHILDREN", "DATE", "ID", "NAME", "PARENT", "SIZE"]
    assert first.findtext("CHILDREN") == "1"
    assert second.findtext("ACTIVE") == "YES"
    assert second.find("NAME") is None


def test_unreadable_call_is_a_fault(site):
    for body in ("<!DOCTYPE a []><methodCall/>", "<methodResponse/>", "<methodCall></methodCall>"):
        answer = xmlrpc.client.Transport()
        connection = answer.make_connection(site.url.split("/")[2])
        try:
            connection.request("POST", "/RPC2", body)
            text = connection.getresponse().read().decode()
        finally:
            answer.close()
        with pytest.raises(xmlrpc.client.Fault) as caught:
            xmlrpc.client.loads(text)
        assert caught.value.faultCode == -503


def test_many_clients_at_once(site):
    counts = []
    threads = [threading.Thread(target=lambda: counts.append(len(site.apps()))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(counts) == 16
    assert len(set(counts)) == 1


def test_passwords_are_not_in_reprs(cloud):
    assert "opennebula" not in repr(cloud.users["oneadmin"])
    assert "alicepass" not in repr(cloud)
