"""Device and tolerances of the kernels' tests: the GPU if there is one, else Triton's interpreter on the CPU."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.float16]
"""Element types to test. bfloat16 is left to the GPU tests, since the interpreter multiplies its matrices wrongly."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Return the tolerance for results of order 1 that were accumulated in float32 and rounded once or twice."""
    return {
        torch.float32: {"rtol": 2e-5, "atol": 2e-5},
        torch.float16: {"rtol": 4e-3, "atol": 4e-3},
        torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
    }[dtype]
