"""Who may see and change what: the rules without a server, and whose a connection is, with real ones."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any

import pytest

from parkit_async.dashboard.access import Access, is_loopback, peer_user
from tests.conftest import Spawn

TOKEN = "a-token-that-is-long-enough"
STRANGER = 65534
"""The user ``nobody``, who exists wherever there are users."""


def scope(method: str = "GET", path: str = "/", query: str = "", client: str = "192.0.2.7", **headers: str) -> dict[str, Any]:
    """Return a request as ASGI has it; an underscore in a header's name is a hyphen."""
    found = {"host": "127.0.0.1:7275", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in found.items()],
        "client": (client, 50000),
        "server": ("127.0.0.1", 7275),
    }


def status(access: Access, asked: dict[str, Any]) -> int:
    refused = access.refusal(asked)
    return 200 if refused is None else refused.status


@pytest.fixture
def access() -> Access:
    return Access(TOKEN)


def bearer(token: str = TOKEN) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def test_the_token_comes_as_header_cookie_or_query(access: Access) -> None:
    assert status(access, scope()) == 401
    assert status(access, scope(**bearer())) == 200
    assert status(access, scope(**bearer(TOKEN + "x"))) == 401
    assert status(access, scope(authorization=f"Basic {TOKEN}")) == 401
    assert status(access, scope(query=f"token={TOKEN}")) == 200
    assert status(access, scope(query="token=wrong")) == 401
    assert status(access, scope(path="/metrics", query=f"token={TOKEN}")) == 401, "only once, to come in"
    assert status(access, scope(cookie=f"parkit-7275={access.cookie}")) == 200
    assert status(access, scope(cookie=f"parkit-7275={TOKEN}")) == 401
    assert status(access, scope(cookie=f"parkit-7276={access.cookie}")) == 401
    assert status(access, scope(authorization="Bearer \xe4")) == 401, "what is no ASCII is no error"
    umlauts = Access("ein-schlüssel-mit-umlaut")
    assert status(umlauts, scope(**bearer("ein-schlüssel-mit-umlaut".encode().decode("latin-1")))) == 200, "as programs send it"


def test_an_expired_token_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    access = Access(TOKEN, lifetime=60)
    asked = scope(**bearer())
    assert status(access, asked) == 200 and 0 < (access.left() or 0) <= 60
    access.expires = 1.0
    for expired in (asked, scope(cookie=f"parkit-7275={access.cookie}")):
        refused = access.refusal(expired)
        assert refused is not None and refused.status == 401
        assert "expired" in refused.title and "parkit dashboard" in refused.text
    assert status(access, scope(**bearer("wrong" * 5))) == 401
    assert "expired" not in str(access.refusal(scope(**bearer("wrong" * 5)))), "nor does it tell a guesser that he was near"


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1:7275", 200),
        ("localhost:7275", 200),
        ("LOCALHOST", 200),
        ("[::1]:7275", 200),
        ("192.0.2.1:80", 200),
        ("dash.example:443", 200),
        ("evil.example", 403),
        ("localhost.evil.example:7275", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
        ("[", 403),
    ],
)
def test_a_foreign_host_is_refused(host: str, expected: int) -> None:
    access = Access(TOKEN, hosts=["dash.example"])
    assert status(access, scope(host=host, **bearer())) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"origin": "http://127.0.0.1:7275"}, 200),
        ({"origin": "https://127.0.0.1:7275"}, 200),  # behind a proxy
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "http://localhost:7275"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "cross-site"}, 403),
    ],
)
def test_a_foreign_origin_is_refused_everywhere(access: Access, headers: dict[str, str], expected: int) -> None:
    for path in ("/", "/events", "/static/app.js", "/login", "/metrics"):
        assert status(access, scope(path=path, **bearer(), **headers)) == expected


def test_actions_are_json_and_can_be_forbidden(access: Access) -> None:
    action = {"method": "POST", "path": "/api/actions/clean"}
    assert status(access, scope(**action, **bearer(), content_type="application/json")) == 200
    assert status(access, scope(**action, **bearer(), content_type="application/json; charset=utf-8")) == 200
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""):
        assert status(access, scope(**action, **bearer(), content_type=kind)) == 415
    assert status(access, scope(**action, content_type="application/json")) == 401
    reader = Access(TOKEN, read_only=True)
    assert status(reader, scope(**action, **bearer(), content_type="application/json")) == 403
    assert status(reader, scope(path="/api/state", **bearer())) == 200


def test_what_tells_nothing_of_the_store_is_open(access: Access) -> None:
    assert status(access, scope(path="/static/style.css")) == 200
    assert status(access, scope(path="/login")) == 200
    assert status(access, scope("POST", "/login")) == 200
    assert status(access, scope(path="/staticfiles")) == 401
    assert status(access, scope(path="/loginx")) == 401


def test_a_short_token_is_refused_and_a_made_up_one_is_long() -> None:
    with pytest.raises(ValueError, match="can be guessed"):
        Access("short")
    assert len(Access().token) >= 40 and Access().token != Access().token


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("0.0.0.0", "192.0.2.1", "::", "localhost", "x", "")))


linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells whose a connection is")


@linux
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["IPv4", "IPv6"])
def test_the_kernel_tells_whose_a_connection_is(family: socket.AddressFamily) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server, socket.create_connection(server.getsockname()[:2]) as client:
        end, peer = server.accept()
        with end:
            assert peer_user(peer, end.getsockname()) == os.geteuid()
            client.close()
            # One who has gone is nobody, and above all not root, as whom the kernel shows him.
            assert peer_user(peer, end.getsockname()) is None


@linux
def test_an_ipv6_socket_that_speaks_ipv4() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_INET6) as client:
        client.connect((f"::ffff:{server.getsockname()[0]}", server.getsockname()[1]))
        end, peer = server.accept()
        with end:
            assert peer_user(peer, end.getsockname()) == os.geteuid()


@linux
@pytest.mark.processes
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else for a moment")
def test_another_users_connection_is_his(spawn: Spawn) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(20)
        stranger = spawn(
            """
            import os, socket, sys
            os.setuid(int(sys.argv[2]))
            with socket.socket() as client:
                client.connect(("127.0.0.1", int(sys.argv[1])))
                sys.stdin.readline()
            """,
            server.getsockname()[1],
            STRANGER,
        )
        end, peer = server.accept()
        with end:
            assert peer_user(peer, end.getsockname()) == STRANGER
            request = {**scope(), "client": peer, "server": end.getsockname()}
            assert Access(TOKEN).needs_token(request)
        stranger.finish()


@linux
def test_this_user_needs_no_token_unless_he_comes_through_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
        end, peer = server.accept()
        with end:
            ends = {"client": peer, "server": end.getsockname()}
            assert not Access(TOKEN).needs_token({**scope(), **ends})
            assert Access(TOKEN, require_token=True).needs_token({**scope(), **ends})
            for header in ("x_forwarded_for", "x_forwarded_proto", "forwarded", "x_real_ip", "via"):
                assert Access(TOKEN).needs_token({**scope(**{header: "x"}), **ends})
