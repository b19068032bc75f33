"""Files that the GPU's driver leaves in /dev/shm, by which processes map the memory of each other's GPUs."""

import atexit
import functools
import os
from contextlib import suppress
from pathlib import Path

_FOLDER = Path("/dev/shm")


def remove_driver_files(process_id: int, folder: Path = _FOLDER) -> None:
    """Remove the files in shared memory that CUDA created for a process, which must have ended or be about to end.

    Their names are cuda.shm.USER.PROCESS.NUMBER, with hexadecimal numbers.
    """
    for path in folder.glob(f"cuda.shm.*.{process_id:x}.*"):
        with suppress(OSError):
            path.unlink()


@functools.cache
def remove_own_driver_files_at_exit() -> None:
    """Remove the files of this process when it ends. Other processes may need them until then."""
    atexit.register(remove_driver_files, os.getpid())
