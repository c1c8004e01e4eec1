"""Who may see the store, and who may change it.

::

    Host            a name of this machine, or an address           else 403: somebody's domain that was pointed here (DNS rebinding)
    Origin,         this very page                                  else 403: another site's page that has this browser ask
    Sec-Fetch-Site
    who asks        this user, on this machine, directly            comes in without a token: the kernel says whose connection it is
                    anybody with the token                          cookie, "Authorization: Bearer TOKEN", or ?token=TOKEN once
                    anybody else                                    401: another user of this machine, a proxy, another machine
    POST            JSON, from this very page or from no browser    else 415, 403
    --read-only     nothing but looking                             403

A store belongs to one user (see ``paths``), and whoever controls its pool runs code as that user. That a connection comes from this machine does not
say whose it is: any user's process can connect to 127.0.0.1. Linux tells whose, in ``/proc/net/tcp``; where it does not (macOS), the token is needed.

Invariants:

* Tokens are compared in constant time, and are long.
* Once the token has expired nothing that it opened is open: neither cookies nor streams.
* What forwards requests for others (it says so in a header) is not taken for this user, whoever it runs as.
"""

from __future__ import annotations

import hmac
import os
import secrets
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qs

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import Scope

__all__ = ["CAN_TELL", "LEAST", "Access", "Refusal", "is_loopback", "peer_user"]

CAN_TELL: Final = os.path.exists("/proc/net/tcp")
"""Whether the system tells whose a connection is."""
LEAST: Final = 16
"""Characters that a token has at least."""
_ESTABLISHED: Final = "01"
_FORWARDED: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip", "via")


class Refusal(NamedTuple):
    """Why a request is refused.

    Attributes:
        status: HTTP's.
        title: What it is, in a few words.
        text: What happened and what to do.
        login: Whether a token would help.
    """

    status: int
    title: str
    text: str
    login: bool = False


class Access:
    """The rules, for one run of the dashboard.

    Args:
        token: What lets others in; None makes one up.
        lifetime: Seconds for which it does; None is for ever.
        hosts: Names, besides this machine's own, under which the dashboard is reached.
        require_token: This user needs it as well.
        read_only: Nobody may change anything.

    Attributes:
        token: See above.
        expires: When it ends, on the clock of ``time.time``; None is never.
        read_only: See above.

    Raises:
        ValueError: The token is short, or no text.
    """

    def __init__(
        self,
        token: str | None = None,
        lifetime: float | None = None,
        hosts: Iterable[str] = (),
        require_token: bool = False,
        read_only: bool = False,
    ) -> None:
        if token is not None and len(token) < LEAST:
            raise ValueError(f"a token of {len(token)} characters can be guessed; it has at least {LEAST}")
        if token is not None and any("\ud800" <= character <= "\udfff" for character in token):
            raise ValueError("a token is text, and this one has bytes that are no UTF-8")
        self.token = secrets.token_urlsafe(32) if token is None else token
        self.expires = None if lifetime is None else time.time() + lifetime
        self.read_only = read_only
        self.cookie = secrets.token_urlsafe(32)
        self._require_token = require_token
        names = {"localhost", socket.gethostname(), *hosts}
        self._hosts = frozenset(name.lower() for name in names if name)

    def left(self) -> float | None:
        """Return for how many seconds the token is still good; None for ever."""
        return None if self.expires is None else max(0.0, self.expires - time.time())

    def cookie_name(self, scope: Scope) -> str:
        """Return the name of the cookie: browsers do not tell the ports of a machine apart."""
        return f"parkit-{(scope.get('server') or ('', 0))[1]}"

    def needs_token(self, scope: Scope) -> bool:
        """Return whether whoever asks needs the token."""
        return self._require_token or not _is_owner(scope)

    def matches(self, token: str) -> bool:
        """Return whether a token is the right one, expired or not."""
        return hmac.compare_digest(token.encode("utf-8", "replace"), self.token.encode())

    def refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request is refused; None if it is not. What is in the body of a request is not looked at."""
        headers = Headers(scope=scope)
        refused = self._foreign(scope, headers)
        if refused is not None or scope["path"] == "/login" or scope["path"].startswith("/static/"):
            return refused  # what anybody may have tells nothing of the store
        if self.needs_token(scope):
            refused = self._tokenless(scope, headers)
            if refused is not None:
                return refused
        if scope["method"] not in ("GET", "HEAD"):
            if headers.get("content-type", "").partition(";")[0].strip() != "application/json":
                return Refusal(415, "Not JSON", "Actions are sent as application/json, which no other site's form can do.")
            if self.read_only:
                return Refusal(403, "Read only", "The dashboard was started with --read-only: it shows, and changes nothing.")
        return None

    def _foreign(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        host = headers.get("host", "")
        if not self._is_own(host):
            text = f"{host[:100]!r} is not a name of this machine. If it is meant to be, start the dashboard with --allow-host."
            return Refusal(403, "Unknown host", text)
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return Refusal(403, "Foreign origin", f"A page of {origin[:100]!r} has asked for this, and the dashboard answers to its own page alone.")
        site = headers.get("sec-fetch-site")
        if site not in (None, "same-origin", "none"):
            text = "Another site's page has led here. Type the address into the browser, or paste it there: the dashboard follows no links of others."
            return Refusal(403, "Foreign site", text)
        return None

    def _is_own(self, host: str) -> bool:
        name = _without_port(host)
        if name.lower() in self._hosts:
            return True
        try:
            ip_address(name)  # an address is no name that somebody could point elsewhere
        except ValueError:
            return False
        return True

    def _tokenless(self, scope: Scope, headers: Mapping[str, str]) -> Refusal | None:
        proven = any(map(self.matches, _tokens(headers, scope)))
        cookie = HTTPConnection(scope).cookies.get(self.cookie_name(scope), "")
        proven = proven or hmac.compare_digest(cookie.encode("utf-8", "replace"), self.cookie.encode())
        if not proven:
            return Refusal(401, "A token is needed", "It stands in the address that `parkit dashboard` has printed where it was started.", True)
        if self.left() == 0:
            text = "The token has expired. Have `parkit dashboard` started again, and open the address that it prints then."
            return Refusal(401, "The token has expired", text)
        return None


def _tokens(headers: Mapping[str, str], scope: Scope) -> list[str]:
    found = []
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        found.append(token.strip().encode("latin-1").decode("utf-8", "replace"))  # headers come as latin-1, whatever they are
    if scope["method"] == "GET" and scope["path"] == "/":
        found += parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
    return found


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def is_loopback(address: str) -> bool:
    """Return whether an address can be reached from this machine alone."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return bool((mapped or found).is_loopback)


def _is_owner(scope: Scope) -> bool:
    client, server = scope.get("client"), scope.get("server")
    if client is None or server is None or not is_loopback(client[0]):
        return False
    if any(name in Headers(scope=scope) for name in _FORWARDED):
        return False
    return peer_user(tuple(client), tuple(server)) == os.geteuid()


def peer_user(client: tuple[Any, ...], server: tuple[Any, ...]) -> int | None:
    """Return the user whose process is at the other end of a connection within this machine; None if the system does not tell.

    Args:
        client: Address and port of the other end.
        server: Of this end.
    """
    for family, table in ((socket.AF_INET, "/proc/net/tcp"), (socket.AF_INET6, "/proc/net/tcp6")):
        ends = [_end(family, *end[:2]) for end in (client, server)]
        if None in ends:
            continue
        try:
            with open(table, encoding="ascii") as lines:
                for line in lines:
                    words = line.split()
                    # A socket that its process has closed belongs to nobody (inode 0), and is shown as root's.
                    if words[1:3] == ends and words[3] == _ESTABLISHED and words[9] != "0":
                        return int(words[7])
        except OSError:
            continue
    return None


def _end(family: int, address: str, port: int) -> str | None:
    """Return how the kernel shows one end of a connection: words of the machine's byte order, in hexadecimal."""
    found = ip_address(address.partition("%")[0])
    if family == socket.AF_INET6 and found.version == 4:
        found = ip_address(f"::ffff:{address}")
    elif family == socket.AF_INET and found.version == 6:
        mapped = found.ipv4_mapped
        if mapped is None:
            return None
        found = mapped
    words = struct.unpack(f"={len(found.packed) // 4}I", found.packed)
    return f"{''.join(f'{word:08X}' for word in words)}:{port:04X}"
