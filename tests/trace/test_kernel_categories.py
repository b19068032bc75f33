"""Kernels of several vendors and libraries are told apart by what they compute, and by their use of tensor cores."""

import pytest

from roseinfer.trace.kernel_categories import kernel_category, uses_tensor_cores

CATEGORIES = {
    "matmul": (
        "nvjet_sm90_tst_320x128_64x3_1x2_h_bz_coopB_NNT",
        "ampere_sgemm_128x64_nn",
        "void cutlass::Kernel2<cutlass_80_wmma_tensorop_bf16_s161616gemm_bf16_16x16_32x1_nn_align8>(int)",
        "Cijk_Alik_Bljk_BBS_BH_Bias_HA_S_SAV_UserArgs_MT256x32x64_MI16x16x1_SN",
        "void gemv2T_kernel_val<int, int, float>(float*)",
        "std::enable_if<!(false), void>::type internal::gemvx::kernel<int, int, __nv_bfloat16>(float)",
        "triton_tem_fused_mm_3",
    ),
    "convolution": (
        "volta_scudnn_128x64_relu_interior_nn_v1",
        "void cudnn::detail::dgrad_engine<float, 512, 6, 5, 3, 3, 3, false>(int)",
        "void implicit_convolve_sgemm<float, float, 1024, 6, 7, 3, 3, 5, 1, false, true, true>(int)",
        "sm80_xmma_fprop_implicit_gemm_indexed_tf32f32_tf32f32_f32_nhwckrsc_nchw_tilesize128x128x16_cudnn",
        "void cudnn::winograd_nonfused::winogradForwardOutput4x4<float, float>(int)",
    ),
    "attention": (
        "void pytorch_flash::flash_fwd_kernel<pytorch_flash::Flash_fwd_kernel_traits<64, 128, 128, 4>>(int)",
        "fmha_cutlassF_bf16_aligned_64x64_rf_sm80(int)",
        "paged_attention_ll4mi_reduce_kernel",
        "kernel_unified_attention_3d",
        "_decode_kernel",
        "_prefill_kernel",
    ),
    "moe": ("void vllm::moe::topkGatingSoftmax<4, 8, 4, 16>(float*)", "fused_moe_kernel", "_matmul_ogs_NNT_bf16"),
    "norm": (
        "void at::native::(anonymous namespace)::vectorized_layer_norm_kernel<c10::BFloat16, float>(int)",
        "void cudnn::bn_fw_tr_1C11_kernel_NCHW<float, float, 512, true, 1>(int)",
        "_ZN7ck_tile6kentryILi1ENS_12Rmsnorm2dFwdINS",
        "triton_red_fused_native_layer_norm_0",
    ),
    "elementwise": (
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, int>(int)",
        "void vllm::act_and_mul_kernel<c10::BFloat16, vllm::silu_kernel>(int)",
        "triton_poi_fused_mul_silu_2",
        "_activation_kernel",
    ),
    "reduction": (
        "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float>>>(int)",
        "void at::native::(anonymous namespace)::cunn_SoftMaxForward<8, float, float>(float*)",
        "void (anonymous namespace)::softmax_warp_backward<float, float, float, 10, true>(float*)",
        "void cunn_ClassNLLCriterion_updateOutput_kernel<float, float>(float*)",
    ),
    "embedding": ("void vllm::rotary_embedding_kernel<c10::BFloat16, true>(long const*)",),
    "sampling": (
        "void at::native::mbtopk::computeDigitCumSum<unsigned short>(int)",
        "void at_cuda_detail::cub::detail::radix_sort::DeviceRadixSortOnesweepKernel<int>(int)",
    ),
    "optimizer": (
        "void at::native::(anonymous namespace)::multi_tensor_apply_kernel<at::native::FusedAdamMathFunctor<>>(int)",
    ),
    "communication": ("ncclDevKernel_AllReduce_Sum_bf16_RING_LL(ncclDevKernelArgsStorage<4096ul>)",),
    "copy": (
        "Memcpy HtoD (Pageable -> Device)",
        "Memset (Device)",
        "void at::native::(anonymous namespace)::CatArrayBatchedCopy<int, unsigned int, 3, 64, 64>(int)",
        "void at::native::elementwise_kernel<128, 4, at::native::gpu_kernel_impl_nocast<"
        "at::native::direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}>>(int)",
        "void vllm::reshape_and_cache_flash_kernel<__hip_bfloat16>(int)",
        "void at::native::vectorized_elementwise_kernel<4, at::native::FillFunctor<float>, int>(int)",
    ),
    "other": ("at::native::_assert_async_cuda_kernel(bool*)", "k", ""),
}


@pytest.mark.parametrize(("category", "name"), [(one, name) for one, names in CATEGORIES.items() for name in names])
def test_category(category: str, name: str) -> None:
    assert kernel_category(name) == category


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nvjet_sm90_tst_320x128_64x3_1x2_h_bz_coopB_NNT", True),
        ("ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_32x6_tn", True),
        ("volta_h884gemm_128x64_nn", True),
        ("Cijk_Ailk_Bljk_BBS_BH_MT64x64x64_MI16x16x1_SN", True),
        ("sm80_xmma_gemm_tf32f32_tf32f32_f32_nn_n_tilesize128x128x16_stage4_warpsize2x2x1_tensor16x8x8", True),
        ("void cutlass::Kernel<cutlass_80_tensorop_s1688gemm_256x64_16x4_nn_align4>(int)", True),
        ("ampere_sgemm_128x64_nn", False),
        ("void cutlass::Kernel2<cutlass_80_simt_sgemm_128x64_8x5_nn_align1>(int)", False),
        ("volta_scudnn_128x64_relu_interior_nn_v1", False),
        ("void cudnn::cnn::wgrad_alg0_engine<float, 128, 6, 7, 3, 3, 5, false, 512>(int)", False),
        ("void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, int>(int)", None),
    ],
)
def test_tensor_cores(name: str, expected: bool | None) -> None:
    assert uses_tensor_cores(name) is expected
