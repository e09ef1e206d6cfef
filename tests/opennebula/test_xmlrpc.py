from __future__ import annotations

import time
import xmlrpc.client

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebfs.errors import BadAnswer, NebfsError, UserError
from nebfs.opennebula import CannotSend, NoSuchObject, RpcError, decode, encode

# What both XML 1.0 and the front-end's library take, but CR: XML's line ends make it LF.
SENDABLE = st.characters(max_codepoint=0xFFFD, exclude_categories=("Cs",)).filter(
    lambda c: c >= " " or c in "\t\n"
)
# The same examples in every run: a failure of one run must not be the luck of it.
STEADY = settings(derandomize=True, database=None, deadline=None)
PARAMETER = st.one_of(
    st.booleans(), st.integers(-(2**31), 2**31 - 1), st.text(SENDABLE, max_size=80)
)


@STEADY
@given(params=st.lists(PARAMETER, max_size=6))
def test_whatever_is_encoded_reads_back_as_the_same(params):
    decoded, method = xmlrpc.client.loads(encode("one.image.info", tuple(params)))
    assert (list(decoded), method) == (params, "one.image.info")
    assert [type(value) for value in decoded] == [type(value) for value in params]


@STEADY
@given(value=st.one_of(st.text(SENDABLE), st.integers(-(2**31), 2**31 - 1), st.booleans()))
def test_the_value_of_any_successful_answer_is_read_exactly(value):
    body = xmlrpc.client.dumps(([True, value, 0],), methodresponse=True).encode()
    assert decode(body) == value


@STEADY
@given(body=st.binary(max_size=300))
def test_any_bytes_are_an_error_of_ours(body):
    with pytest.raises(NebfsError):
        decode(body)


@STEADY
@given(cut=st.integers(min_value=0))
def test_an_answer_that_is_cut_off_anywhere_is_a_bad_answer(kit_body, cut):
    with pytest.raises(BadAnswer):
        decode(kit_body[: cut % (len(kit_body.rstrip()))])


@pytest.fixture(scope="session")
def kit_body():
    return xmlrpc.client.dumps(([True, "7.4.0", 0],), methodresponse=True).encode()


@pytest.mark.parametrize("text", ["😀 disk", "a\x00b", "a\x1bb", "a\ud800b", "a\ufffeb"])
def test_text_that_the_front_end_cannot_parse_is_refused_here_by_name(text):
    with pytest.raises(UserError, match=r"parameter 1 of one\.image\.rename holds .* U\+"):
        encode("one.image.rename", ("alice:secret", text))


def test_a_session_that_cannot_be_sent_is_refused_without_showing_any_of_it():
    with pytest.raises(UserError, match="the session") as caught:
        encode("one.image.info", ("alice:canary😀", 1))
    assert "canary" not in str(caught.value)
    assert "1F600" not in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["text", 7, [], [True], [1, "x", 0], ["yes", "x", 0], [True, ["x"], 0], [True, 1.5, 0], {}],
    ids=repr,
)
def test_what_is_not_opennebulas_result_array_is_a_bad_answer(value):
    with pytest.raises(BadAnswer):
        decode(xmlrpc.client.dumps((value,), methodresponse=True).encode())


@pytest.mark.parametrize("tail", [[], [-1], [-1, -1], [5, "future", True]])
def test_result_arrays_of_any_version_are_told_by_their_first_three(tail):
    old = xmlrpc.client.dumps(([False, "gone", 0x400, *tail],), methodresponse=True).encode()
    with pytest.raises(NoSuchObject, match="gone"):
        decode(old)
    new = xmlrpc.client.dumps(([True, "fine", 0, *tail],), methodresponse=True).encode()
    assert decode(new) == "fine"


def test_a_failure_without_a_code_is_still_a_failure():
    with pytest.raises(RpcError, match="why"):
        decode(xmlrpc.client.dumps(([False, "why"],), methodresponse=True).encode())


def param(inner: bytes) -> bytes:
    return b"<methodResponse><params><param>" + inner + b"</param></params></methodResponse>"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"   ",
        b"not xml",
        b"<methodResponse/>",
        b"<methodResponse><params></params></methodResponse>",
        param(b"<value><i4>x</i4></value>"),
        param(b"<value><boolean>2</boolean></value>"),
        param(b"<value><odd>1</odd></value>"),
        param(b"<value><bigdecimal>x</bigdecimal></value>"),
        param(b"<value><i4>" + b"9" * 5000 + b"</i4></value>"),
        b"<methodResponse><fault><value><string>x</string></value></fault></methodResponse>",
        b"<methodResponse><fault><value><struct></struct></value></fault></methodResponse>",
        b"<methodResponse><fault></fault></methodResponse>",
        b"<array></array>",
        b"<data></data></array>",
        b"\xff\xfe\x00",
    ],
)
def test_malformed_bodies_are_bad_answers(body):
    with pytest.raises(BadAnswer):
        decode(body, method="one.system.version")


def test_an_html_page_asks_whether_this_is_the_endpoint():
    with pytest.raises(BadAnswer, match=r"HTML page.*endpoint"):
        decode(b"<!DOCTYPE html><html><body>welcome</body></html>")
    with pytest.raises(BadAnswer, match=r"HTML page.*endpoint"):
        decode(b"\n<HTML><BODY><P>welcome</BODY></HTML>")


def test_an_answer_over_the_limit_is_not_even_parsed(kit_body):
    with pytest.raises(BadAnswer, match="larger than"):
        decode(kit_body, limit=len(kit_body) - 1)
    assert decode(kit_body, limit=len(kit_body)) == "7.4.0"


LAUGHS = "".join(f'<!ENTITY a{i} "&a{i - 1};&a{i - 1};">' for i in range(1, 41))
BOMBS = {
    "billion laughs": f'<!DOCTYPE x [<!ENTITY a0 "ha">{LAUGHS}]>'
    "<methodResponse>&a40;</methodResponse>",
    "quadratic blowup": f'<!DOCTYPE x [<!ENTITY a "{"x" * 50_000}">]>'
    f"<methodResponse>{'&a;' * 50_000}</methodResponse>",
    "local file": '<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]>'
    "<methodResponse><params><param><value>&a;</value></param></params></methodResponse>",
    "external dtd": '<!DOCTYPE x SYSTEM "http://127.0.0.1:9/x.dtd"><methodResponse/>',
}


@pytest.mark.parametrize("name", BOMBS)
def test_xml_bombs_are_refused_in_bounded_time(name):
    started = time.perf_counter()
    with pytest.raises(BadAnswer, match="document type"):
        decode(BOMBS[name].encode())
    assert time.perf_counter() - started < 1


def test_arrays_nested_a_hundred_thousand_deep_end_as_a_bad_answer():
    depth = 100_000
    deep = b"<value><array><data>" * depth + b"</data></array></value>" * depth
    with pytest.raises(BadAnswer):
        decode(param(deep))


def test_control_characters_in_a_template_do_not_spoil_the_answer(kit):
    body = kit.success("<IMAGE>bell BELL end</IMAGE>").replace(b"BELL", b"\x07\x00\xef\xbf\xbe")
    assert decode(body) == "<IMAGE>bell  end</IMAGE>"


def test_a_secret_that_the_other_side_repeats_is_not_in_the_error(kit):
    for body in (kit.failed(0x2000, "bad session a:canary"), kit.fault(-500, "a:canary, sorry")):
        with pytest.raises(RpcError) as caught:
            decode(body, secret="canary")
        assert "canary" not in f"{caught.value} {caught.value!r} {caught.value.facts}"
        assert caught.value.__cause__ is None


def test_a_servers_text_cannot_forge_lines_of_a_log(kit):
    with pytest.raises(CannotSend) as caught:
        decode(kit.fault(-500, "one\ntwo\u2028three" + "x" * 10_000))
    assert str(caught.value).splitlines() == [str(caught.value)]
    assert len(caught.value.message) <= 400
