"""Connect to a Ray cluster, or start one on this machine, and wait for the actors' devices. Each fails within 30 s."""

import logging
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from roseinfer.errors import RoseinferError, UsageError

_CONNECT_S = 20.0
"""Time within which a cluster must answer."""
_ROOM_S = 25.0
"""Time within which the devices of all actors must be free."""
_LOCAL_OBJECT_STORE_BYTES = 512 << 20
"""Shared memory for blocks in flight on a local cluster. More is written to the disk."""

_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_TQDM": "0",
    "RAY_worker_niceness": "0",
}
"""Ray reports nothing to its makers, and prints nothing beside our own output. It reads these when it is imported.

Ray's workers would run at a niceness of 15, so that any other work on the machine takes the actors' cores.
"""


@contextmanager
def connected(address: str, *, num_cpus: int | None = None) -> Iterator[None]:
    """Connect to the cluster at `address`; `local` starts one on this machine, which ends with the context.

    A local cluster has `num_cpus` CPUs, whatever this machine has; None for those of the machine.

    Raises UsageError if Ray is not installed, and RoseinferError if the cluster cannot be reached.
    """
    ray = _imported()
    folder = None
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        if address == "local":
            folder = tempfile.mkdtemp(prefix="roseinfer-ray-", dir="/tmp")  # the path of a socket has at most 107 bytes
            _start(ray, folder, num_cpus)
        else:
            _check_reachable(address)
            _join(ray, address)
        for number, handler in handlers.items():  # Ray's own handler of SIGTERM would end the process at once
            signal.signal(number, handler)
        # Errors of Ray's own processes, which its log files hold, would be printed to stdout among the results.
        ray._private.worker.print_worker_logs = lambda *_: None
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        yield
    finally:
        ray.shutdown()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def check_room(actors: int, *, cpus: float, gpus: int) -> None:
    """Wait until the cluster has the CPUs and GPUs of all actors free, those of each actor on one node.

    Raises UsageError if the cluster has too few, and RoseinferError if other jobs use them for longer than 25 s.
    """
    ray = _imported()
    from ray.util import placement_group, remove_placement_group

    total = ray.cluster_resources()
    for name, each in (("GPU", gpus), ("CPU", cpus)):
        if actors * each > total.get(name, 0):
            raise UsageError(
                f"{_counted(actors, 'actor')} with {_counted(each, name)} each need {_counted(actors * each, name)}, "
                f"but the Ray cluster has {total.get(name, 0):g}: lower --actors"
            )
    group = placement_group([{"CPU": cpus} | ({"GPU": gpus} if gpus else {})] * actors, strategy="PACK")
    try:
        if not group.wait(_ROOM_S):
            left = ray.available_resources()
            free = f"{_counted(left.get('CPU', 0), 'CPU')} and {_counted(left.get('GPU', 0), 'GPU')} are free"
            raise RoseinferError(
                f"no room on the Ray cluster for {_counted(actors, 'actor')} with {_counted(cpus, 'CPU')} and "
                f"{_counted(gpus, 'GPU')} each within {_ROOM_S:.0f} s, {free}: end other jobs, or lower --actors"
            )
    finally:
        remove_placement_group(group)


def num_gpus() -> int:
    """Return the number of GPUs of the connected cluster."""
    return int(_imported().cluster_resources().get("GPU", 0))


def cpus_per_actor(actors: int) -> int:
    """Return the number of CPUs that each of some actors gets: its share of the cluster, and at most a node's."""
    ray = _imported()
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    return max(min(sum(nodes) // actors, max(nodes, default=0)), 1)


def _imported() -> Any:
    """Return the module `ray`. Raises UsageError if it is not installed."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise UsageError("--ray needs Ray: python -m pip install 'roseinfer[ray]'") from None
    return ray


def _check_reachable(address: str) -> None:
    """Raise RoseinferError if nothing listens at an address, which Ray would try for a minute."""
    if address == "auto":
        return
    if "://" in address:
        raise UsageError(
            f"invalid --ray {address}: the files of a job are those of a machine of the cluster: run the command "
            "there, with --ray auto, or as `ray job submit -- roseinfer ...`"
        )
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal():
        raise UsageError(f"invalid --ray {address}: give local, auto or HOST:PORT, such as 10.0.0.1:6379")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S / 2).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, getattr(error, "strerror", None) or str(error)) from None


def _start(ray: Any, folder: str, num_cpus: int | None) -> None:
    """Start a cluster on this machine. Its processes end with the calling thread, so that must be a lasting one."""
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            object_store_memory=_LOCAL_OBJECT_STORE_BYTES,
            _temp_dir=folder,
        )
    except (Exception, SystemExit) as error:  # Ray calls sys.exit where its processes do not start
        raise RoseinferError(f"cannot start Ray on this machine: {_one_line(error)}") from None


def _join(ray: Any, address: str) -> None:
    """Connect to a running cluster, on a thread, since Ray waits for minutes for a server that does not answer."""
    failures: list[BaseException] = []

    def init() -> None:
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=init, name="ray-init", daemon=True)
    thread.start()
    thread.join(_CONNECT_S)
    if thread.is_alive():
        raise _unreachable(
            address, f"no answer within {_CONNECT_S:.0f} s: check the address, and RAY_AUTH_MODE if it needs a token"
        )
    if failures:
        raise _unreachable(address, _one_line(failures[0]))


def _unreachable(address: str, reason: str) -> RoseinferError:
    if address == "auto" and "Could not find" in reason:
        return RoseinferError("no Ray cluster runs on this machine: start one with `ray start`, or give --ray local")
    return RoseinferError(f"cannot reach a Ray cluster at {address}: {reason}")


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _counted(count: float, what: str) -> str:
    return f"{count:g} {what}" if count == 1 else f"{count:g} {what}s"
