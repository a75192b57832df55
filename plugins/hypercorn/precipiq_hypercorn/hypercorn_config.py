"""Hypercorn's configuration as this project runs it: its limits, TLS, and a logger that writes no access line."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from typing import Any

from hypercorn.config import Config
from hypercorn.logging import Logger
from prometheus_client import CollectorRegistry

from precipiq_contracts.errors import DeploymentError
from precipiq_core.system import SystemClock
from precipiq_hypercorn.config import HypercornConfig, TlsSettings
from precipiq_hypercorn.door import Door
from precipiq_peers.open_files import connections_max
from precipiq_peers.places import Places

# Forward secrecy and authenticated encryption only; TLS 1.3 has its own list. Mozilla's "intermediate" without DHE.
_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)

_REASONS = {"KEY_VALUES_MISMATCH": "the key is another certificate's"}


class QuietLogger(Logger):
    """Errors go to the logger ``hypercorn.error``; requests are logged by this project, without queries or headers."""

    def __init__(self, config: Config) -> None:
        self.access_logger = None
        self.error_logger = logging.getLogger("hypercorn.error")

    async def access(self, request: Any, response: Any, request_time: float) -> None:
        """Do nothing: the request log writes the line."""


class ServerConfig(Config):
    """Built from the deployment's settings; TLS 1.2 and newer, HTTP/2 by ALPN. Holds what its connections share.

    ``idle``: what ends the connections on which nothing runs, the longest idle first.
    """

    def __init__(self, settings: HypercornConfig, door: Door | None = None) -> None:
        super().__init__()
        total_max = connections_max(settings.connections_max)
        per_address_max = min(settings.connections_per_address_max, max(1, total_max // 2))
        self.places = Places(total_max, per_address_max, settings.trusted_proxies)
        self.door = door or Door(CollectorRegistry())
        self.idle: dict[Callable[[], None], None] = {}
        self.h2c = settings.h2c
        self.header_fields_max = settings.header_fields_max
        self.tiny_frames_per_second_max = settings.tiny_frames_per_second_max
        self.stall_timeout_s = settings.tcp_user_timeout_s
        self.logger_class = QuietLogger
        self.keep_alive_timeout = settings.keep_alive_timeout_s
        self.keep_alive_max_requests = settings.keep_alive_requests_max
        self.h11_max_incomplete_size = settings.header_bytes_max
        self.h2_max_concurrent_streams = settings.h2_streams_max
        self.h2_max_header_list_size = settings.header_bytes_max
        self.websocket_max_message_size = settings.websocket_message_bytes_max
        self.websocket_ping_interval = settings.websocket_ping_interval_s
        self.websocket_frames_per_second_max = settings.websocket_frames_per_second_max
        self.close_timeout_s = settings.close_timeout_s
        self.include_server_header = False
        self._fields: tuple[object, list[tuple[bytes, bytes]]] = (None, [])
        self.tls = settings.tls

    def response_headers(self, protocol: str) -> list[tuple[bytes, bytes]]:
        """The fields of the server's own: formatted once a second."""
        key = (SystemClock().now_us() // 1_000_000, protocol)
        if self._fields[0] != key:
            self._fields = (key, super().response_headers(protocol))
        return list(self._fields[1])

    def create_ssl_context(self) -> ssl.SSLContext | None:
        """Keeps OpenSSL's own options, which Hypercorn would overwrite."""
        return None if self.tls is None else tls_context(self.tls)


def tls_context(tls: TlsSettings) -> ssl.SSLContext:
    """Raises ``DeploymentError`` when certificate or key cannot be used."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols(["h2", "http/1.1"])
    problems = []
    for name, path in (("certificate_file", tls.certificate_file), ("key_file", tls.key_file)):
        try:
            path.open("rb").close()
        except OSError as error:
            problems.append(f"server.tls.{name}: {path} cannot be read: {error.strerror}")
    if problems:
        raise DeploymentError(problems)
    try:
        context.load_cert_chain(tls.certificate_file, tls.key_file, password=lambda: b"")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = _REASONS.get(getattr(error, "reason", ""), "both must be PEM, and the key unencrypted")
        raise DeploymentError([f"server.tls: certificate and key cannot be used together: {reason}"]) from error
    return context
