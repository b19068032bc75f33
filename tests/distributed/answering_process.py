"""A process that answers one message; `test_rank_processes.py` starts it."""

import socket
import sys

from roseinfer.distributed.rank_channel import Kind, RankChannel

if __name__ == "__main__":
    channel = RankChannel(socket.socket(fileno=int(sys.argv[-1])))
    channel.send(Kind.HELLO)
    channel.receive()
    channel.send(Kind.REPLY)
