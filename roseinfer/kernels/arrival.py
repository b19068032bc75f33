"""How programs of one launch leave results to the one of them that ends last."""

from roseinfer.kernels.runtime import tl, triton


@triton.jit
def is_last(counter, count):
    """Whether this program is the last of `count` that come here.

    The counter is one of `runtime.arrivals`, and zero again afterwards. What the others stored before, in all of their
    threads, the last one can load, past its own cache (".cg").
    """
    tl.debug_barrier()  # every thread's part is written before the arrival is told
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == count - 1
    tl.store(counter, 0, mask=last)
    return last
