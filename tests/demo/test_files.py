"""The file server: ranges and validators as RFC 9110 has them, and every switch."""

import http.client
import os
import threading
from urllib.parse import urlsplit

import pytest

PATH = "/test/file with blank.bin"
QUOTED = "/test/file%20with%20blank.bin"
SIZE = 3_000_017
CONTENT = bytes(i * 7 % 251 for i in range(4099)) * (SIZE // 4099 + 1)
CONTENT = CONTENT[:SIZE]


@pytest.fixture
def published(cloud, tmp_path):
    file = tmp_path / "content"
    file.write_bytes(CONTENT)
    cloud.publish(PATH, file)
    return file


@pytest.fixture
def connection(servers, published):
    address = urlsplit(servers.files_url)
    with_one = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    yield with_one
    with_one.close()


@pytest.fixture
def ask(connection):
    def request(method="GET", path=QUOTED, **headers):
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    return request


def test_whole_file_over_one_connection_again_and_again(ask, connection, servers):
    for _ in range(3):
        status, headers, body = ask()
        assert (status, body) == (200, CONTENT)
        assert headers["Accept-Ranges"] == "bytes"
    sock = connection.sock
    ask("HEAD")
    assert connection.sock is sock is not None
    counts = servers.files.statistics()[PATH]
    assert (counts.requests, counts.bytes) == (4, 3 * SIZE)
    assert servers.bytes_sent() == 3 * SIZE


def test_head_tells_length_and_validators(ask):
    status, headers, body = ask("HEAD")
    assert (status, body) == (200, b"")
    assert headers["Content-Length"] == str(SIZE)
    assert headers["ETag"].startswith('"')
    assert headers["Last-Modified"].endswith(" GMT")
    status, headers, _ = ask("HEAD", Range="bytes=0-9")
    assert (status, headers["Content-Length"]) == (206, "10")


@pytest.mark.parametrize(
    ("asked", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, SIZE),
        ("bytes=1000-1999", 1000, 2000),
        (f"bytes={SIZE - 1}-", SIZE - 1, SIZE),
        ("bytes=2999999-9999999", 2999999, SIZE),
        ("bytes=-17", SIZE - 17, SIZE),
        ("bytes=-99999999", 0, SIZE),
    ],
)
def test_one_range(ask, servers, asked, start, stop):
    status, headers, body = ask(Range=asked)
    assert status == 206
    assert body == CONTENT[start:stop]
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert servers.bytes_sent() == stop - start
    assert servers.files.requests[-1].range == asked


@pytest.mark.parametrize("asked", [f"bytes={SIZE}-", "bytes=99999999-99999999", "bytes=-0"])
def test_range_beyond_the_end_is_416(ask, asked):
    status, headers, body = ask(Range=asked)
    assert (status, body) == (416, b"")
    assert headers["Content-Range"] == f"bytes */{SIZE}"


@pytest.mark.parametrize("asked", ["bytes=5-2", "lines=1-2", "bytes=0-1,4-5", "bytes=-", "bytes"])
def test_range_that_is_none_gives_the_whole(ask, asked):
    status, _, body = ask(Range=asked)
    assert (status, len(body)) == (200, SIZE)


def test_if_range_gives_the_part_of_this_version_and_the_whole_of_another(ask):
    headers = ask("HEAD")[1]
    for good in (headers["ETag"], headers["Last-Modified"]):
        assert ask(Range="bytes=0-9", If_Range=good)[0] == 206
    for other in ('"other"', "Mon, 01 Jan 2001 00:00:00 GMT"):
        assert ask(Range="bytes=0-9", If_Range=other)[0] == 200


def test_if_match_and_if_none_match(ask):
    etag = ask("HEAD")[1]["ETag"]
    assert ask(Range="bytes=0-9", If_Match=f'"x", {etag}')[0] == 206
    assert ask(Range="bytes=0-9", If_Match="*")[0] == 206
    assert ask(Range="bytes=0-9", If_Match='"other"')[0] == 412
    assert ask(If_None_Match=etag)[0] == 304


def test_unknown_path_is_404(ask):
    assert ask(path="/nothing")[0] == 404
    assert ask(path="/../../etc/passwd")[0] == 404


def test_published_file_that_is_gone_is_404(ask, published):
    published.unlink()
    assert ask()[0] == 404


def test_ranges_off_sends_the_whole_with_200(ask, servers):
    servers.files.switches(PATH).ranges = False
    status, headers, body = ask(Range="bytes=0-9")
    assert (status, len(body)) == (200, SIZE)
    assert headers["Accept-Ranges"] is None


def test_validators_off(ask, servers):
    servers.files.switches(PATH).validators = False
    headers = ask("HEAD")[1]
    assert headers["ETag"] is None
    assert headers["Last-Modified"] is None


def test_lie_about_the_length_ends_in_a_short_body(ask, servers):
    servers.files.switches(PATH).longer = 5
    assert ask("HEAD")[1]["Content-Length"] == str(SIZE + 5)
    assert ask(Range="bytes=0-9")[1]["Content-Range"] == f"bytes 0-9/{SIZE + 5}"
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask()
    assert caught.value.expected == 5


def test_cut_after(ask, servers):
    servers.files.switches(PATH).cut_after = 1_500_000
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask()
    assert caught.value.partial == CONTENT[:1_500_000]
    assert servers.bytes_sent() == 1_500_000


def test_fail_next_counts_down(ask, servers):
    switches = servers.files.switches(PATH)
    switches.fail_next, switches.retry_after = 2, 7
    first = ask()
    assert (first[0], first[1]["Retry-After"]) == (503, "7")
    assert ask()[0] == 503
    assert ask()[0] == 200
    assert servers.files.statistics()[PATH].statuses == [503, 503, 200]


@pytest.mark.parametrize("at", [0, 1_048_576, 2_000_000, SIZE - 1])
def test_corrupt_byte_is_the_only_difference(ask, servers, at):
    servers.files.switches(PATH).corrupt_at = at
    body = ask()[2]
    assert len(body) == SIZE
    assert body[at] == CONTENT[at] ^ 0xFF
    assert body[:at] + body[at + 1 :] == CONTENT[:at] + CONTENT[at + 1 :]
    if at:
        assert ask(Range="bytes=0-0")[2] == CONTENT[:1]


def test_stalled_transfer_goes_on_when_released(ask, connection, servers):
    servers.files.switches(PATH).stall_after = 1000
    connection.request("GET", QUOTED)
    answer = connection.getresponse()
    assert answer.read(1000) == CONTENT[:1000]
    connection.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        answer.read(1)
    assert servers.bytes_sent() == 1000
    answer.close()
    connection.close()
    servers.files.release()
    assert ask()[2] == CONTENT


def test_servers_stop_while_a_transfer_is_stalled(cloud, published):
    from nebfs.demo import serve

    with serve(cloud) as servers:
        servers.files.switches(PATH).stall_after = 10
        address = urlsplit(servers.files_url)
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
        connection.request("GET", QUOTED)
        answer = connection.getresponse()
        assert answer.read(10) == CONTENT[:10]
        before = {t for t in threading.enumerate() if "process_request" in t.name}
        assert before
    for thread in before:
        thread.join(5)
        assert not thread.is_alive()
    answer.close()
    connection.close()


def test_replaced_file_has_another_etag(ask, servers, tmp_path):
    old = ask("HEAD")[1]["ETag"]
    other = tmp_path / "other"
    other.write_bytes(CONTENT[::-1])
    servers.files.replace(PATH, other)
    status, headers, body = ask(If_Match="*")
    assert (status, body) == (200, CONTENT[::-1])
    assert headers["ETag"] != old
    assert ask(If_Match=old)[0] == 412


def test_holes_of_the_sparse_disk_are_zeros(ask):
    body = ask(path="/public/big.raw", Range=f"bytes={1 << 30}-{(1 << 30) + 4095}")[2]
    assert body == bytes(4096)


def test_slow_client_gets_everything(servers, published):
    address = urlsplit(servers.files_url)
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    connection.request("GET", QUOTED)
    answer = connection.getresponse()
    received = bytearray()
    while piece := answer.read(8192):  # with the socket's buffers full in between
        received += piece
        os.sched_yield()
    connection.close()
    assert received == CONTENT


def test_broken_connections_are_no_failures_of_the_server(ask, servers, connection):
    servers.files.switches(PATH).stall_after = 10
    connection.request("GET", QUOTED)
    answer = connection.getresponse()
    answer.read(10)
    servers.break_connections()
    servers.files.release()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    assert servers.failures() == []
