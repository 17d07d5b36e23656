"""Fresh certificates as PEM files, and senders that show them."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
import trustme

OWN_CHANNEL = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
"""Each channel has a connection of its own, so that it shakes hands by itself."""


class Authority:
    """A certificate authority of a test."""

    def __init__(self) -> None:
        self._ca = trustme.CA()

    @property
    def pem(self) -> bytes:
        """Its certificate."""
        return self._ca.cert_pem.bytes()

    def issue(self, *names: str, days: float = 30) -> tuple[bytes, bytes]:
        """Certificate and key for these names; negative days: expired since so long."""
        ends = datetime.now(UTC) + timedelta(days=days)
        made = self._ca.issue_cert(*names, not_before=ends - timedelta(days=3650), not_after=ends)
        return b"".join(pem.bytes() for pem in made.cert_chain_pems), made.private_key_pem.bytes()


def server_names() -> tuple[str, ...]:
    """What a listener of these tests is called."""
    return "localhost", "127.0.0.1", "::1"


class Files:
    """cert.pem, key.pem and ca.pem in a folder; written aside and renamed, as careful tools do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"

    def put(self, identity: tuple[bytes, bytes] | None = None, ca: bytes | None = None) -> "Files":
        """Have this certificate with its key, and this authority, where they are given."""
        cert, key = identity or (None, None)
        for path, data in ((self.cert, cert), (self.key, key), (self.ca, ca)):
            if data is not None:
                replace(path, data)
        return self


def replace(path: Path, data: bytes) -> None:
    """Put a file in the place of another at once."""
    aside = path.with_suffix(".new")
    aside.write_bytes(data)
    aside.replace(path)


def client_context(
    trusted: bytes, identity: tuple[bytes, bytes] | None = None, folder: Path | None = None
) -> ssl.SSLContext:
    """A client that trusts this authority; its own certificate goes through files in the folder."""
    context = ssl.create_default_context(cadata=trusted.decode())
    if identity is not None:
        assert folder is not None
        files = Files(folder / "client").put(identity)
        context.load_cert_chain(files.cert, files.key)
    return context


def old_client() -> ssl.SSLContext:
    """A client that offers TLS 1.1 and nothing newer, and asks for nothing but that."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    return context


def secure_channel(address: str, trusted: bytes, identity: tuple[bytes, bytes] | None = None) -> grpc.aio.Channel:
    """A channel with a connection of its own."""
    cert, key = identity or (None, None)
    credentials = grpc.ssl_channel_credentials(trusted, key, cert)
    return grpc.aio.secure_channel(address, credentials, OWN_CHANNEL)
