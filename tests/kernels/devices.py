"""Where the kernels' tests run: on the GPU where there is one, else in Triton's interpreter."""

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
DTYPES = [torch.float32, torch.float16]
"""The interpreter multiplies bfloat16 matrices wrongly; the GPU's own tests add that one."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Of a result of order 1 that was accumulated in float32 and rounded once or twice."""
    return {
        torch.float32: {"rtol": 2e-5, "atol": 2e-5},
        torch.float16: {"rtol": 4e-3, "atol": 4e-3},
        torch.bfloat16: {"rtol": 3e-2, "atol": 3e-2},
    }[dtype]
