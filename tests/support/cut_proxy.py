"""A TCP proxy in a thread that can be cut, so that a program loses its connection to a server that goes on."""

import contextlib
import socket
import threading
from collections.abc import Iterator


class CutProxy:
    """Forwards connections to a port of 127.0.0.1 until `cut`; new ones are then refused until `join`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._joined = True
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Ends every connection."""
        self._joined = False
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        """Takes connections again."""
        self._joined = True

    def close(self) -> None:
        """Ends the proxy."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._joined:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._target))
                self._open |= {near, far}
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for one in (source, sink):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
            self._open.discard(one)


@contextlib.contextmanager
def cut_proxy(port: int) -> Iterator[CutProxy]:
    """A proxy to this port while inside."""
    proxy = CutProxy(port)
    try:
        yield proxy
    finally:
        proxy.close()
