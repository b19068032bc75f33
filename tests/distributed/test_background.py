"""A function in the background gives its result or its error, and waits for it can be ended."""

import subprocess
import sys
import threading

import pytest

from roseinfer.distributed.background import Background


def test_the_result_arrives_once_the_function_has_ended() -> None:
    gate = threading.Event()

    def run() -> str:
        gate.wait()
        return "connected"

    background = Background(run, "test")
    assert background.finished is None
    gate.set()
    assert background.result() == background.result() == background.finished == "connected"


def test_an_error_reaches_everyone_who_waits() -> None:
    background = Background(lambda: 1 // 0, "test")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            background.result()


def test_a_wait_ends_when_it_is_given_up() -> None:
    gate = threading.Event()
    background = Background(gate.wait, "test")
    threading.Timer(0.05, background.give_up).start()
    with pytest.raises(RuntimeError, match="given up"):
        background.result()
    gate.set()


def test_the_end_of_the_process_does_not_wait_for_the_function() -> None:
    program = (
        "import threading\n"
        "from roseinfer.distributed.background import Background\n"
        "Background(threading.Event().wait, 'test')\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
