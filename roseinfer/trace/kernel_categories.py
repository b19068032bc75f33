"""Tell from the name of a kernel what it computes, and whether it uses tensor cores."""

import functools
import re

from roseinfer.trace.collectives import function_name, is_collective
from roseinfer.trace.summary.work_structs import KernelCategory

_WORDS: list[tuple[KernelCategory, str]] = [
    ("copy", r"reshape_and_cache|store_kv|kv_?cache_(?:copy|write)|copy_blocks"),
    ("attention", r"^_(?:decode|prefill)_kernel$|fmha|flash|attention|attn|mla_|_mla|paged_kv|sdpa"),
    ("moe", r"moe|expert|topk_?gating|grouped_?gemm|permute_tokens|matmul_ogs|routing|bitmatrix"),
    (
        "convolution",
        r"conv(?!ert)|wgrad|dgrad|fprop|scudnn|winograd|nchwtonhwc|nhwctonchw|batched_transpose|im2col|col2im"
        r"|igemm_|cask_cudnn|subtensorop|fft2d|flip_filter|miopensp|depthwise",
    ),
    ("norm", r"norm|bn_fw|bn_bw|welford|rowwisemoments|\bbn_|batch_?norm"),
    (
        "matmul",
        r"gemm|nvjet|matmul|cijk_|cublas|gemv|splitk|split_k|wmma|dot_kernel|addmm|_mm_|\bmm\b|cutlass|linear_kernel"
        r"|marlin|machete|wvsplit|llmm1|xdl|bgmv|sgmv|lora_(?:shrink|expand)|dequant",
    ),
    ("optimizer", r"adam|multi_tensor|foreach|sgd|lamb(?!da)|adagrad|rmsprop|fused_optim|lion_"),
    (
        "sampling",
        r"(?<!up)(?<!down)sampl|multinomial|top_?k|top_?p|argmax|penalt|exponential_|radix_?sort|bitonic|gumbel|rejection|philox"
        r"|distribution_elementwise|sort_?kernel|merge_?sort|devicescan",
    ),
    (
        "copy",
        r"copy|memcpy|memset|catarray|transpose|reshape_and_cache|fill_|fillfunctor|pack_?kernel|nvjet_copy"
        r"|contiguous|concat|gather_kernel|scatter|index_?(?:select|put|kernel|elementwise)|slot_mapping|roll_cuda",
    ),
    ("embedding", r"embedding|rope|rotary|indexselect"),
    ("reduction", r"reduce|reduction|softmax|sum_kernel|mean|cumsum|scan_|argmin|logsumexp|cross_entropy|nll"),
    (
        "elementwise",
        r"elementwise|pointwise|triton_poi|act_and_mul|silu|gelu|relu|sigmoid|swiglu|dropout|functor|max_?pool"
        r"|avg_?pool|adaptive_|upsample|scalepackedtensor|quant|clamp|threshold|add_kernel|mul_kernel|bias"
        r"|^_activation_kernel$",
    ),
]
"""Words in the names of functions, in the order in which they are tried; whole names are of roseinfer's own kernels."""
_RULES = [(category, re.compile(words)) for category, words in _WORDS]
_ARGUMENTS: list[tuple[KernelCategory, re.Pattern[str]]] = [
    ("copy", re.compile(r"direct_copy_kernel|bfloat16_copy_kernel|float16_copy_kernel|fillfunctor|_copy_kernel")),
    ("optimizer", re.compile(r"adam|optimizer")),
    ("norm", re.compile(r"welford|norm_?two_?ops|normops")),
]
"""Words in the template arguments of torch's generic kernels, which name the operation."""
_GENERIC = re.compile(r"elementwise_kernel|reduce_kernel|multi_tensor_apply|^kernel|kernel2?$")
_TRITON = re.compile(r"^triton_(?P<kind>poi|red|per|tem|for)_")
_TRITON_KINDS: dict[str, KernelCategory] = {
    "poi": "elementwise",
    "red": "reduction",
    "per": "reduction",
    "tem": "matmul",
}
_TRITON_WORDS = ("attention", "moe", "norm", "matmul", "convolution")

_TENSOR_CORES = re.compile(
    r"""
    tensorop | nvjet | hmma | imma | wgmma | mfma | _wmma | wmma_ | xmma_.*_(?:tf32|bf16|f16|e4m3|i8)
    | tensor\d+x\d+x\d+ | warpgroupsize | [hsid]1688 | 16816 | 161616 | [hsi]884 | _mi\d+x\d+x\d+ | xdlops | _xdl_
    | flash_fwd | flash_bwd | flash::  | fmha_cutlassf | cudnn_generated_fort_native_sdpa | deep_gemm | marlin | tcgen05
    | gemm_(?:bf16|f16|fp16|e4m3) | mxfp4 | sm(?:90|100)_.*gemm | _turing_.*h\d+ | [hi]gemm(?!m)
    """,
    re.VERBOSE,
)
_NO_TENSOR_CORES = re.compile(
    r"""
    simt | sgemm | dgemm(?!.*884) | cgemm | scudnn | ffma | implicit_convolve | explicit_convolve | wgrad_alg\d
    | dgrad_engine | winograd | gemvn?  | gemv | gemm_?sn | magma | fft | conv_?depthwise | fp32_gemm | scalar_gemm
    """,
    re.VERBOSE,
)


@functools.lru_cache(maxsize=1 << 14)
def kernel_category(name: str) -> KernelCategory:
    """Return what a kernel, memcpy or memset computes, by its name; "other" if the name does not tell.

    The name of the function comes first. For torch's generic kernels the template arguments name the operation.
    """
    if is_collective(name):
        return "communication"
    lower = name.lower()
    if lower.startswith(("memcpy", "memset")):
        return "copy"
    function = function_name(name).lower()
    if function.startswith("std::enable_if"):  # a return type, which the function follows
        function = lower
    triton = _TRITON.match(function)
    if triton:
        found = next((one for one, rule in _RULES if one in _TRITON_WORDS and rule.search(function)), None)
        return found or _TRITON_KINDS.get(triton["kind"], "elementwise")
    if _GENERIC.search(function):
        for category, rule in _ARGUMENTS:
            if rule.search(lower):
                return category
    for category, rule in _RULES:
        if rule.search(function):
            return category
    if _GENERIC.search(function):
        return next((category for category, rule in _RULES if rule.search(lower)), "other")
    return "other"


@functools.lru_cache(maxsize=1 << 14)
def uses_tensor_cores(name: str) -> bool | None:
    """Return True for a kernel that uses tensor or matrix cores, by its name; None if the name does not tell."""
    lower = name.lower()
    if _TENSOR_CORES.search(lower):
        return True
    return False if _NO_TENSOR_CORES.search(lower) else None
