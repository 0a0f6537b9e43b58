"""A server that speaks PostgreSQL's protocol up to the end of the log-in, and says that it is of an older version."""

import contextlib
import socketserver
import struct
import threading
from collections.abc import Iterator

SSL_REQUEST = 80_877_103
READY = b"Z" + struct.pack("!I", 5) + b"I"
NO_PASSWORD = b"R" + struct.pack("!II", 8, 0)


@contextlib.contextmanager
def postgres_that_says(version: str) -> Iterator[str]:
    """The URL of a database on it, with a password."""

    class Session(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            (size, code) = struct.unpack("!II", self.rfile.read(8))
            if code == SSL_REQUEST:
                self.wfile.write(b"N")
                (size,) = struct.unpack("!I", self.rfile.read(4))
                self.rfile.read(size - 4)
            else:
                self.rfile.read(size - 8)
            settings = {"server_version": version, "client_encoding": "UTF8", "integer_datetimes": "on"}
            said = b"".join(_setting(name, value) for name, value in settings.items())
            self.wfile.write(NO_PASSWORD + said + READY)
            self.rfile.read()  # until it hangs up

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Session) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"postgresql://relay:not-for-anybody@127.0.0.1:{server.server_address[1]}/relay"
        finally:
            server.shutdown()


def _setting(name: str, value: str) -> bytes:
    said = name.encode() + b"\0" + value.encode() + b"\0"
    return b"S" + struct.pack("!I", len(said) + 4) + said
