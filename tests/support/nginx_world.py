"""nginx with `deploy/nginx/revor-relay.conf` as it is shipped: only addresses and file names are replaced."""

import asyncio
import contextlib
import datetime
import os
import re
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.system_programs import system_program
from tests.support.wire import MAX_HEAD_BYTES, Client

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "deploy" / "nginx" / "revor-relay.conf"
HOST = "relay.example.com"
STARTS_WITHIN_SECONDS = 120.0
MAIN = """\
{user}daemon off;
pid {folder}/nginx.pid;
worker_processes 1;
error_log {folder}/main.log crit;
events {{ worker_connections 1024; }}
http {{
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/relay.conf;
}}
"""


class TlsClient(Client):
    """A client that speaks TLS to nginx; `name` is the host name that it asks for."""

    def __init__(self, port: int, trust: ssl.SSLContext, name: str = HOST) -> None:
        super().__init__(f"http://127.0.0.1:{port}")
        self._trust = trust
        self._name = name

    async def connect(self) -> None:
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                *self._address, limit=MAX_HEAD_BYTES, ssl=self._trust, server_hostname=self._name
            )

    async def leave(self) -> None:
        with contextlib.suppress(ssl.SSLError):  # an answer that was not read
            await super().leave()


@dataclass(frozen=True, slots=True, kw_only=True)
class Nginx:
    """A running nginx: its port, what trusts its certificate, and its folder with the logs."""

    port: int
    trust: ssl.SSLContext
    folder: Path

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def client(self, name: str = HOST) -> TlsClient:
        return TlsClient(self.port, self.trust, name)

    def logs(self) -> str:
        """All that it has written."""
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("*.log")))


@contextlib.asynccontextmanager
async def nginx_before(relay_port: int) -> AsyncIterator[Nginx]:
    """nginx in front of what listens on a port of loopback. Its folder's path has no space: its log paths may not."""
    program = system_program("nginx", "nginx")
    with tempfile.TemporaryDirectory(prefix="relay-nginx-") as name:
        folder = Path(name)
        trust = _certificate(folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        (folder / "relay.conf").write_text(_addressed(SHIPPED.read_text(), folder, port, relay_port))
        user = "user root;\n" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(MAIN.format(folder=folder, user=user))
        command = (program, "-p", str(folder), "-e", str(folder / "main.log"), "-c", str(folder / "nginx.conf"))
        with open(folder / "stderr.log", "w") as errors:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors)
        made = Nginx(port=port, trust=trust, folder=folder)
        try:
            await _until_open(made, process)
            yield made
        finally:
            process.terminate()
            await asyncio.to_thread(process.wait, 20)


def _addressed(text: str, folder: Path, port: int, relay_port: int) -> str:
    """The shipped configuration with addresses and paths of this machine."""
    text = re.sub(r"^ *listen \[::\]:443 .*\n", "", text, flags=re.MULTILINE)
    places = {
        "listen 443 ": f"listen 127.0.0.1:{port} ",
        "server 127.0.0.1:8080;": f"server 127.0.0.1:{relay_port};",
        "/etc/letsencrypt/live/relay.example.com": str(folder),
        "/var/log/nginx": str(folder),
    }
    for place, ours in places.items():
        assert place in text, place
        text = text.replace(place, ours)
    return text


async def _until_open(nginx: Nginx, process: "subprocess.Popen[bytes]") -> None:
    async with asyncio.timeout(STARTS_WITHIN_SECONDS):
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                async with nginx.client():
                    return
            assert process.poll() is None, nginx.logs()
            await asyncio.sleep(0.02)


def _certificate(folder: Path) -> ssl.SSLContext:
    """Writes a certificate for the host name and its key. Returns what trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate = folder / "fullchain.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "privkey.pem").write_bytes(key.private_bytes(*plain))
    return ssl.create_default_context(cafile=str(certificate))
