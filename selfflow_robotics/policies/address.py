"""Addresses of policy servers, and the secret that servers and clients share."""

import ipaddress
import os
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from selfflow_robotics.errors import UserError

PREFIX = "remote:"
VLA_EVAL = "vla-eval+"
# In the environment: every user of a machine can see a command's arguments.
TOKEN_VARIABLE = "SELFFLOW_TOKEN"
MIN_TOKEN_CHARS = 16

Protocol = Literal["openpi", "vla-eval"]


@dataclass(frozen=True)
class Address:
    """A policy server."""

    protocol: Protocol
    url: str  # ws://... or wss://...

    @property
    def shown(self) -> str:
        """The URL without a password."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    @property
    def keeps_secrets(self) -> bool:
        """Whether nobody else can read what is sent there."""
        parts = urlsplit(self.url)
        return parts.scheme == "wss" or is_loopback(parts.hostname or "")


def is_remote(text: str) -> bool:
    """Whether `policy=` names a policy server."""
    return text.startswith(PREFIX)


def parse_address(text: str) -> Address:
    """The server of "remote:ws://host:port" (openpi's protocol; wss:// with TLS) or
    "remote:vla-eval+ws://host:port". Raises UserError for anything else."""
    url = text.removeprefix(PREFIX)
    protocol: Protocol = "vla-eval" if url.startswith(VLA_EVAL) else "openpi"
    url = url.removeprefix(VLA_EVAL)
    try:
        parts = urlsplit(url)
        is_valid = parts.scheme in ("ws", "wss") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # the port is no number, or too large
        is_valid = False
    if not is_valid or any(character.isspace() for character in url):
        raise UserError(
            f"policy={text}: write remote:ws://HOST:PORT for a server of openpi's protocol "
            "(wss:// with TLS), or remote:vla-eval+ws://HOST:PORT for one of vla-eval"
        )
    return Address(protocol, url)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_token() -> str | None:
    """The secret; None if there is none. Raises UserError if it is short or no header can have
    it."""
    token = os.environ.get(TOKEN_VARIABLE)
    if token is None:
        return None
    is_short = len(token) < MIN_TOKEN_CHARS
    if is_short or not token.isascii() or not token.isprintable() or " " in token:
        raise UserError(
            f"{TOKEN_VARIABLE} must be {MIN_TOKEN_CHARS} or more ASCII characters without spaces, "
            "for example from: openssl rand -hex 32"
        )
    return token
