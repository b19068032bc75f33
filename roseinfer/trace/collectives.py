"""Tell collectives and other communication between ranks from work, by the names of kernels, operators and spans."""

import functools
import re

_FUNCTION = re.compile(r"^(?:void |typeinfo name for )?((?:[^<(]|\(anonymous namespace\))*)")
"""A name without its template arguments and parameters, which name the types of other libraries."""

_LIBRARIES = re.compile(
    r"""
    (?<![a-z])[nr]ccl                              # ncclDevKernel_*, ncclKernel_*, nccl:*, rcclGenericKernel
    | mscclk | mscclpp | \bmsccl                   # MSCCL and MSCCL++
    | nvshmem | rocshmem | ishmem                  # SHMEM on NVIDIA, AMD and Intel devices
    | barrier_on_stream | quiet_on_stream          # kernels of NVSHMEM that do not have its name
    | \b(?:one)?ccl(?:::|_) | oneccl               # oneCCL
    | \bhccl | \bhcom_ | aicpu_?hccl               # HCCL
    | \b(?:gloo|mpi|ucc|xccl|mccl|cncl|eccl):      # other backends of torch.distributed
    | \b_?c10d(?:_functional)?:: | record_param_comms
    | symm(?:etric)?_mem | multimem_               # torch's symmetric memory
    | userbuffers                                  # Transformer Engine and TensorRT-LLM
    | quick_?reduce\b
    """,
    re.VERBOSE,
)
_OPERATIONS = re.compile(
    r"""
    (?<!warp)(?<!warp_)(?<!block)(?<!block_)(?<!cta)(?<!cta_)(?<!thread)(?<!thread_)
    (?: all_?reduce | all_?gather | reduce_?scatter | all_?2_?all | all_?to_?all )
    | cross_device_(?:reduce|store|load)           # vLLM, SGLang and AITER
    | local_device_load_rmsnorm                    # second half of AITER's fused all-reduce
    | lamport                                      # flag protocol of TensorRT-LLM and FlashInfer
    | moe_?(?:a2a|comm) | fused_?moe_?comm         # expert parallelism in TensorRT-LLM
    | \bll_\w+_kernel\b                            # low-latency exchange through flags in the data
    """,
    re.VERBOSE,
)
_EXPERT_PARALLEL = re.compile(
    r"\b(?:deep_ep|hybrid_ep|uccl|mori|pplx|flashinfer::\w*alltoall)::.*(?:dispatch|combine|barrier|clean_low|a2a)"
)
"""Exchange of tokens between the ranks of experts; `combine` and `dispatch` alone name work of other libraries."""
_PARALLEL_CLASSES = re.compile(r"\bep(?:dispatch|combine)|alltoall(?:intra|inter)node")

_WORK = re.compile(
    r"""
    ^triton_\w*fused                               # Inductor names a kernel after operators around it
    | copy_in\b | copy_out\b | copy_bucket         # copies to and from the buffer of a collective
    | gemm | matmul                                # products with a collective fused in
    | get_dispatch_layout
    """,
    re.VERBOSE,
)


def function_name(name: str) -> str:
    """Return the name of a kernel's function without return type, template arguments and parameters."""
    found = _FUNCTION.match(name)
    return (found.group(1) if found else name).strip() or name


@functools.lru_cache(maxsize=1 << 14)  # every device of a job runs kernels of the same names
def is_collective(name: str) -> bool:
    """True for kernels, operators and spans that move data between ranks: collectives, send, receive, barrier.

    Recognized are NCCL and RCCL, the custom all-reduces of vLLM, SGLang, AITER, FlashInfer and TensorRT-LLM, DeepEP and
    other libraries for expert parallelism, NVSHMEM, torch's symmetric memory, MSCCL, oneCCL, HCCL, gloo and MPI. A
    product with a collective fused into it counts as work.
    """
    function = function_name(name).lower()
    if _WORK.search(function):
        return False
    return any(rule.search(function) for rule in (_LIBRARIES, _OPERATIONS, _EXPERT_PARALLEL, _PARALLEL_CLASSES))
