"""The process of a rank that rank 0 has started.

`python -m roseinfer.engine.rank_process RANK RANKS SOCKET`
"""

import os
import socket
import sys

import torch

from roseinfer.distributed.rank_channel import ChannelClosed, RankChannel
from roseinfer.distributed.rank_messages import decoded
from roseinfer.distributed.stores import store_at
from roseinfer.engine.factory import build_rank
from roseinfer.engine.rank_worker import RankWorker


def main() -> None:
    """Serve rank 0 until it ends."""
    parent_id = os.getppid()
    rank, size, descriptor = map(int, sys.argv[1:])
    channel = RankChannel(socket.socket(fileno=descriptor))
    try:
        device_type, port = decoded(channel.receive()[1], tuple[str, int])
    except ChannelClosed:
        return
    device = torch.device(device_type, rank) if device_type == "cuda" else torch.device(device_type)
    RankWorker(channel, store_at(port), rank, size, device, parent_id).serve(build_rank)


if __name__ == "__main__":
    main()
