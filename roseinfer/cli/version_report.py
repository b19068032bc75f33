"""`roseinfer --version`: the versions, the device, and whether its kernels are compiled. Imports torch when called."""

import platform
import sys

from roseinfer.errors import UsageError
from roseinfer.version import __version__


def print_version() -> None:
    """Print `roseinfer VERSION` on the first line, then one `name: value` line per fact that a bug report needs."""
    sys.stdout.write(f"roseinfer {__version__}\n")
    for label, value in _facts().items():
        sys.stdout.write(f"{label}: {value}\n")
    sys.stdout.flush()


def _facts() -> dict[str, str]:
    facts = {"python": f"{platform.python_version()} on {platform.system()} {platform.machine()}"}
    try:
        import torch
    except (ImportError, OSError) as error:  # an installation that is incomplete, or built for another machine
        return facts | {"torch": f"cannot be imported: {' '.join(str(error).split())}"}
    from roseinfer.engine.device import device_name, resolve_device
    from roseinfer.workload.provenance import current_versions

    versions = current_versions()
    device = resolve_device("auto")
    facts["torch"] = versions.torch + (f", CUDA {versions.cuda}" if versions.cuda is not None else "")
    facts["triton"] = versions.triton or "not installed"
    facts["device"] = device_name(device)
    if device.type == "cuda":
        facts["devices"] = str(torch.cuda.device_count())
    facts["CPU kernels"] = _cpu_kernels()
    if versions.git_commit is not None:
        facts["commit"] = versions.git_commit
    return facts


def _cpu_kernels() -> str:
    """Return the state of the compiled CPU kernels in words."""
    from roseinfer.kernels.cpu import native_library
    from roseinfer.kernels.cpu.compiler import find_compiler

    if native_library.load_if_compiled():
        is_used = native_library.is_on_by_default()
        return "compiled" if is_used else "compiled, used with --compile (this CPU has no AVX2)"
    try:
        find_compiler()
    except UsageError as error:
        return f"not compiled: {str(error).removeprefix('--compile').lstrip(': ')}"
    return "not compiled: --compile does it once, in up to 30 s"
