"""Who may use a server: the addresses it listens on, its token, and TLS."""

import base64
import binascii
import hmac
import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from selfflow_robotics.errors import UserError
from selfflow_robotics.policies.address import TOKEN_VARIABLE, is_loopback, read_token


class Access:
    """Checks the `Authorization` header of a request against `token`; None lets everybody in.

    openpi's client sends `Api-Key TOKEN`; `Bearer TOKEN` and the password of an address such as
    ws://user:TOKEN@host (for vla-eval, which has no setting for tokens) are the same.
    """

    def __init__(self, token: str | None) -> None:
        self._token = None if token is None else token.encode()

    @property
    def is_open(self) -> bool:
        """Whether no token is needed."""
        return self._token is None

    def allows(self, headers: Mapping[str, str]) -> bool:
        """Whether the request has the token. Takes the same time for every wrong one."""
        if self._token is None:
            return True
        kind, _, value = str(headers.get("Authorization", "")).strip().partition(" ")
        given = value.strip().encode("utf-8", "surrogateescape")  # headers may be any bytes
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                return False
        elif kind.lower() not in ("api-key", "bearer"):
            return False
        return hmac.compare_digest(given, self._token)


def open_access(
    host: str, certificate: str | None, private_key: str | None
) -> tuple[Access, ssl.SSLContext | None]:
    """The access check, and the TLS settings (None: no TLS), of a server on `host`.

    Raises UserError if `host` is not this machine alone and the token or TLS is missing, or for
    certificate files that cannot be used.
    """
    token = read_token()
    if (certificate is None) != (private_key is None):
        raise UserError("TLS needs both certificate= and private_key= (PEM files)")
    if not is_loopback(host) and (token is None or certificate is None):
        raise UserError(
            f"host={host} can be reached from other machines; set {TOKEN_VARIABLE} (a secret of 16 "
            "characters or more), certificate= and private_key=, or use host=127.0.0.1 and an SSH "
            "tunnel"
        )
    return Access(token), _tls(certificate, private_key)


def _tls(certificate: str | None, private_key: str | None) -> ssl.SSLContext | None:
    if certificate is None or private_key is None:
        return None
    for path in (certificate, private_key):
        if not os.access(path, os.R_OK) or Path(path).is_dir():
            raise UserError(f"cannot read {path}; certificate= and private_key= are PEM files")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # Without a password: it would be asked for on the terminal.
        context.load_cert_chain(certificate, private_key, password=lambda: "")
    except (ssl.SSLError, ValueError, OSError):
        raise UserError(
            f"{certificate} and {private_key} are not a certificate and its key without a password"
        ) from None
    return context
