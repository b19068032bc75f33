"""Only the files that the GPU's driver leaves of one process are removed."""

from pathlib import Path

from roseinfer.distributed.driver_files import remove_driver_files


def test_files_of_other_processes_stay(tmp_path: Path) -> None:
    names = ("cuda.shm.0.1045.1", "cuda.shm.3e8.1045.2", "cuda.shm.0.104.1", "cuda.shm.0.11045.1", "torch_1045_1")
    for name in names:
        (tmp_path / name).touch()
    remove_driver_files(0x1045, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names[2:])
