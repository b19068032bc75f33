"""Environment variables that torch and its libraries read, set before they are loaded. A user's own values stay."""

import os

from roseinfer.thread_waiting import limit_spinning

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"
"""With 1, torch asks Linux for huge pages when it allocates 2 MB or more of CPU memory."""


def prepare_torch() -> None:
    """Choose how CPU threads wait, and let torch's tensors lie in huge pages.

    A decode step reads all weights. In pages of 4 KB it also waits for their addresses to be looked up, above all in
    virtual machines. Most distributions give huge pages only to programs that ask for them.
    """
    limit_spinning()
    os.environ.setdefault(HUGE_PAGES, "1")
