"""A connection between rank 0 and another rank of the same host: numbered kinds of messages over a socket."""

import select
import socket
import struct
import threading
from contextlib import suppress
from enum import IntEnum

_HEADER = struct.Struct("<IB")
_CHUNK = 1 << 16
_HANGUP = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR


class Kind(IntEnum):
    """Kinds of messages, from rank 0 to the other ranks and back."""

    # To another rank.
    START = 5
    """Take a device and enter the group; the payload is the type of device and the port of the ranks' store."""
    BUILD = 1
    """Build an engine; the payload is its settings."""
    STEP = 2
    """Launch a step; the payload is an encoded `StepBatch`."""
    COMMAND = 3
    """Call the function that the payload names, and send its REPLY."""
    RELEASE = 4
    """Drop the engine."""
    END = 6
    """End the process: rank 0 goes on without it."""
    # From another rank.
    HELLO = 10
    """The rank's process runs; the payload is its process id."""
    ALIVE = 11
    """Sent every second."""
    BUSY = 15
    """The rank may be silent until it sends RESUMED: torch's profiler keeps the interpreter for long."""
    RESUMED = 16
    """The rank sends ALIVE every second again."""
    READY = 12
    """The engine is built."""
    REPLY = 13
    """Result of a COMMAND."""
    FAILED = 14
    """The rank ends because of an error; the payload is a line about it."""


_KINDS = frozenset(Kind)


class ChannelClosed(Exception):  # noqa: N818 - an end, not an error
    """The process at the other end has closed the connection, or ended."""


class RankChannel:
    """Sends and receives messages. One thread receives; several may send."""

    def __init__(self, connection: socket.socket) -> None:
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = connection
        self._sending = threading.Lock()
        self._received = bytearray()
        self.max_bytes = 1 << 30
        """Maximum bytes of a message. A longer one closes the channel."""

    def fileno(self) -> int:
        """Return the socket's file descriptor, to wait for messages with `select`."""
        return self._socket.fileno()

    def send(self, kind: Kind, payload: bytes = b"") -> None:
        """Send a message. Raises ChannelClosed if the other end is gone."""
        try:
            with self._sending:
                self._socket.sendall(_HEADER.pack(len(payload), kind) + payload)
        except OSError:
            raise ChannelClosed from None

    def receive(self) -> tuple[Kind, bytes]:
        """Wait for the next message. Raises ChannelClosed once the other end is gone."""
        while (message := self.received()) is None:
            self.fill()
        return message

    def fill(self) -> None:
        """Wait for bytes from the other end. Raises ChannelClosed if it is gone."""
        try:
            chunk = self._socket.recv(_CHUNK)
        except OSError:
            raise ChannelClosed from None
        if not chunk:
            raise ChannelClosed
        self._received += chunk

    def received(self) -> tuple[Kind, bytes] | None:
        """Return the next message that has arrived in full, or None."""
        received = self._received
        if len(received) < _HEADER.size:
            return None
        length, kind = _HEADER.unpack_from(received)
        end = _HEADER.size + length
        if length > self.max_bytes or kind not in _KINDS:
            raise ChannelClosed
        if len(received) < end:
            return None
        payload = bytes(received[_HEADER.size : end])
        del received[:end]
        return Kind(kind), payload

    def wait_for_end(self, timeout_s: float) -> bool:
        """Wait until the other end is gone, or for `timeout_s` seconds. Returns True if it is gone."""
        poll = select.poll()
        poll.register(self._socket, _HANGUP)
        return bool(poll.poll(timeout_s * 1000))

    def set_timeout(self, seconds: float | None) -> None:
        """Close the channel if the other end is silent for so long; None waits without limit."""
        self._socket.settimeout(seconds)

    def shut_down(self) -> None:
        """Tell the other end that the connection ends. A thread that receives gets ChannelClosed."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()
