"""The process of a rank that rank 0 has started.

`python -m roseinfer.engine.rank_process RANK RANKS DEVICE STORE_PORT SOCKET`
"""

import signal
import socket
import sys

import torch

from roseinfer.distributed.rank_channel import RankChannel
from roseinfer.distributed.stores import store_at
from roseinfer.engine.factory import build_rank
from roseinfer.engine.rank_worker import RankWorker


def main() -> None:
    """Serve rank 0 until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal, and rank 0 handles it
    rank, size, device_type, port, descriptor = sys.argv[1:]
    channel = RankChannel(socket.socket(fileno=int(descriptor)))
    device = torch.device(device_type, int(rank)) if device_type == "cuda" else torch.device(device_type)
    RankWorker(channel, store_at(int(port)), int(rank), int(size), device).serve(build_rank)


if __name__ == "__main__":
    main()
