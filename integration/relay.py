"""A unix socket in front of another one, that can be slow, and stays the same file when the other is made anew."""

import contextlib
import socket
import threading
import time
from pathlib import Path


class Relay:
    """Listens at `path`. delay: seconds by which every piece of an answer is late."""

    def __init__(self, path: Path, target: Path) -> None:
        self.delay = 0.0
        self._target = target
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Until either end closes; at once where nobody listens behind it."""
        with client, socket.socket(socket.AF_UNIX) as behind:
            try:
                behind.connect(str(self._target))
            except OSError:
                return
            back = threading.Thread(target=self._pump, args=(behind, client, True), daemon=True)
            back.start()
            self._pump(client, behind, False)
            back.join()

    def _pump(self, source: socket.socket, sink: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if is_answer:
                    time.sleep(self.delay)
                sink.sendall(piece)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
