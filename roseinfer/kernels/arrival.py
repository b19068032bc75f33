"""Find the last program of a launch to finish, which combines the results of all of them."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def is_last(counter, count):
    """True for the last of `count` programs to call this function with the same counter.

    `counter` points to an element of `runtime.arrivals`; it is zero again afterwards. Everything that the other
    programs stored before their calls is visible to the last one, if it loads with cache modifier ".cg": its L1 cache
    may be stale.
    """
    tl.debug_barrier()  # all threads of this program have stored their results before the counter says so
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == count - 1
    tl.store(counter, 0, mask=last)
    return last
