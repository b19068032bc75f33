"""Launch Triton kernels in its interpreter without preparing the language again for every function call."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from triton.runtime import interpreter

_NOTHING_TO_RESTORE = SimpleNamespace(restore=lambda: None)


def prepare_the_language_once() -> None:
    """Make the interpreter replace Triton's functions once per module that defines kernels, and leave them replaced.

    It does so at each launch, and again at each call of a device function inside, which takes a third of the time of
    a launch. Nothing in a process without a GPU needs the functions as they were.
    """
    replace: Callable[[Any], Any] = interpreter._patch_lang
    done: set[int] = set()

    def replace_once(function: Any) -> Any:
        if id(function.__globals__) not in done:
            replace(function)
            done.add(id(function.__globals__))
        return _NOTHING_TO_RESTORE

    interpreter._patch_lang = replace_once
