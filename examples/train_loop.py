"""A training loop whose data loader is slower than its model, profiled by roseinfer.

    python examples/train_loop.py --workers 0
    python examples/train_loop.py --workers 1

Prints the time of a training step without the profiler, and the folder of the profiled run.
"""

import argparse
import time
from itertools import pairwise
from statistics import median

import torch
from torch import Tensor, nn
from torch.profiler import record_function
from torch.utils.data import DataLoader, Dataset

from roseinfer import ProfileConfig, profile_session

STEPS, BATCH, SIZE = 24, 32, 64


class NoisyImages(Dataset[tuple[Tensor, int]]):
    """Random images, each resized and normalized on the CPU when it is read, as a loader of photographs does."""

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        photograph = torch.randn(1, 3, 4 * SIZE, 4 * SIZE)
        image = nn.functional.interpolate(photograph, SIZE, mode="bilinear", antialias=True)[0]
        return (image - image.mean()) / image.std(), index % 10


def batches(workers: int) -> DataLoader[tuple[Tensor, int]]:
    """Return a loader of one epoch, with that many processes beside this one."""
    return DataLoader(NoisyImages(), batch_size=BATCH, num_workers=workers)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
    """Update the model by one batch."""
    with record_function("forward"):
        loss = nn.functional.cross_entropy(model(images), labels)
    with record_function("backward"):
        optimizer.zero_grad()
        loss.backward()
    with record_function("optimizer"):
        optimizer.step()


def main() -> None:
    """Train with a clock, then with the profiler."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 5, stride=4),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.LazyLinear(10),
    ).to(device)
    model(torch.zeros(1, 3, SIZE, SIZE, device=device))  # decides the size of the last layer
    optimizer = torch.optim.AdamW(model.parameters())

    ends_s = []
    for images, labels in batches(arguments.workers):
        train_step(model, optimizer, images.to(device), labels.to(device))
        ends_s.append(time.perf_counter())
    print(f"{median(end - start for start, end in pairwise(ends_s)) * 1e3:.1f} ms per training step")

    config = ProfileConfig(skip_first=4, active=4, profile_dir=f"profiles/workers-{arguments.workers}")
    with profile_session(config, device=arguments.device, name="train") as session:
        for images, labels in batches(arguments.workers):
            train_step(model, optimizer, images.to(device), labels.to(device))
            session.step()
    print(f"profiled: {session.result.run_dir}")


if __name__ == "__main__":
    main()
