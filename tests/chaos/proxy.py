"""A TCP proxy that delays, cuts and swallows, as a bad line does."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from contextlib import suppress


class Proxy:
    """Forwards connections on a port of loopback to another; while it is *bad*, one in three suffers."""

    def __init__(self, target: int, seed: int) -> None:
        self._target, self._random = target, random.Random(seed)  # a schedule, no secret
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = int(self._listener.getsockname()[1])
        self.bad = True
        self.done: Counter[str] = Counter()  #: how often which harm was done
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            harm = self._random.choice(("delay", "cut", "swallow")) if self._random.random() < 1 / 3 else ""
            after = self._random.choice((0, 100, 2_000, 60_000, 400_000))
            harm = harm if self.bad else ""
            if harm:
                self.done[harm] += 1
            threading.Thread(target=self._forward, args=(client, harm, after), daemon=True).start()

    def _forward(self, client: socket.socket, harm: str, after: int) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self._target), timeout=5)
        except OSError:
            client.close()
            return
        both = (client, server)
        ways = [
            threading.Thread(target=_pump, args=(client, server, both, harm if harm == "cut" else "", after)),
            threading.Thread(target=_pump, args=(server, client, both, harm, after // 500)),  # answers are short
        ]
        if harm == "delay":
            time.sleep(2.0)
        for way in ways:
            way.daemon = True
            way.start()


def _pump(source: socket.socket, sink: socket.socket, both: tuple[socket.socket, ...], harm: str, after: int) -> None:
    passed = 0
    with suppress(OSError):
        while data := source.recv(65536):
            passed += len(data)
            if harm == "cut" and passed > after:
                break
            if harm == "swallow" and passed > after:
                continue
            sink.sendall(data)
    for one in both:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
