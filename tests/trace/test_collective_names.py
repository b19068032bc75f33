"""Names of collectives are told from names of work, for every library that names its kernels in its own way."""

import pytest

from roseinfer.trace.collectives import function_name, is_collective

COLLECTIVES = [
    # NCCL and RCCL, from old to new
    "ncclKernel_AllReduce_RING_LL_Sum_float(ncclDevComm*, unsigned long, ncclWork*)",
    "ncclAllReduceRingLLKernel_sum_f32(ncclColl)",
    "ncclDevKernel_AllGather_RING_LL(ncclDevKernelArgsStorage<4096ul>)",
    "ncclDevKernel_Generic(ncclDevKernelArgsStorage<4096ul>)",
    "ncclDevKernel_SendRecv(ncclDevComm*, unsigned long, ncclWork*)",
    "ncclSymkDevKernel_AllReduce_AGxLLMC_R_sum_bf16(ncclSymkDevWorkArgs4K)",
    "void rcclGenericKernel<1, false>(ncclDevKernelArgsStorage<4096ul>)",
    "nccl:all_reduce",
    "nccl:_all_gather_base",
    "ncclAllReduce",
    "rcclAllReduce",
    # all-reduces of inference engines
    "void vllm::cross_device_reduce_1stage<__nv_bfloat16, 4>(vllm::RankData*, vllm::RankSignals, int)",
    "void sglang::cross_device_reduce_2stage<__half, 8>(sglang::RankData*)",
    "void aiter::reduce_scatter_cross_device_store<__hip_bfloat16, 8>(aiter::RankData*)",
    "void aiter::local_device_load_rmsnorm<__hip_bfloat16, 512>(aiter::RankSignals)",
    "void quickreduce::allreduce_prototype_twoshot<quickreduce::AllReduceTwoshot<__half>>(__half const*)",
    "void flashinfer::trtllm_allreduce_fusion::allreduce_fusion_kernel_oneshot_lamport<(int)1, __half, 8>(P)",
    "void flashinfer::trtllm_mnnvl_allreduce::oneshotAllreduceFusionKernel<4, __nv_bfloat16>()",
    "void flashinfer::trtllm_moe_allreduce_fusion::moereduce_allreduce_fusion_kernel_oneshot_lamport<2>()",
    "void tensorrt_llm::kernels::twoShotAllReduceKernel<__half, 8, true>(tensorrt_llm::kernels::AllReduceParams)",
    "void tensorrt_llm::kernels::lamport_initialize_kernel<__half>(__half*)",
    "vllm::all_reduce",
    "_C_custom_ar::all_reduce",
    "sgl_kernel::all_reduce",
    "ll_add_norm_kernel",
    # torch's symmetric memory and intra-node communication
    "void c10d::symmetric_memory::(anonymous namespace)::multimem_all_reduce_kernel<c10::BFloat16, 16>(void*)",
    "void (anonymous namespace)::one_shot_all_reduce_kernel<c10::BFloat16, 16, 8>(c10::BFloat16**)",
    "void (anonymous namespace)::two_shot_all_reduce_kernel_inplace<c10::BFloat16, 16, 8>(c10::BFloat16**)",
    "c10d::symmetric_memory::barrier_kernel(unsigned int**, int, int, int, unsigned long)",
    "symm_mem::multimem_all_reduce_",
    # expert parallelism
    "void deep_ep::intranode::dispatch<8, 768, 8192>(int4*, float*, int*)",
    "void deep_ep::internode_ll::combine<false, 7168, 11, 9>(void*)",
    "void deep_ep::internode::notify_dispatch<false, 8>(int const*)",
    "void hybrid_ep::dispatch_kernel<8, 4>(hybrid_ep::dispatch_kernel_param_t)",
    "void mori::moe::EpDispatchIntraNodeKernel<__hip_bfloat16>(mori::moe::EpDispatchCombineArgs<__hip_bfloat16>)",
    "void pplx::internode::dispatchKernel<true, false>(int*)",
    "void tensorrt_llm::kernels::mnnvl_throughput::moeA2ADispatchKernel<8>()",
    "void flashinfer::trtllm_alltoall::moeAllToAllKernel<8>()",
    # others
    "nvshmemi_transfer_amo_nonfetch_kernel",
    "void nvshmem_allreduce_kernel<float>()",
    "void mscclpp::collective::allreduceAllPairs<(mscclpp::ReduceOp)0, __half>(__half*)",
    "mscclKernel_Sum_half_LL_false(ncclDevComm*, mscclAlgo*, mscclWork*)",
    "userbuffers_fp16_sum_inplace_gpu_rr_rs_oop(int, int, int)",
    "oneccl_allreduce_small",
    "hcom_allReduce__824_0_1",
    "HcclAllReduce",
    "gloo:all_reduce",
    "gloo:broadcast",
    "xccl:allgather_into_tensor",
    "mpi:barrier",
    "c10d::allreduce_",
    "c10d::barrier",
    "_c10d_functional::all_gather_into_tensor",
    "_c10d_functional::wait_tensor",
    "record_param_comms",
    "FSDP::all_gather",
]  # fmt: skip
WORK = [
    "void at::native::reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float, float>>>()",
    "void at::native::vectorized_gather_kernel<16, long>(char*, char*, long*, int)",
    "void at::native::_scatter_gather_elementwise_kernel<128, 8>()",
    "void cublasLt::splitKreduce_kernel<32, 16, int, float>(cublasLt::cublasSplitKParams<float>)",
    "void paged_attention_ll4mi_reduce_kernel<__hip_bfloat16, 128>(__hip_bfloat16*)",
    "void flash_fwd_splitkv_combine_kernel<Flash_fwd_kernel_traits<128, 64>>(Flash_fwd_params)",
    "void vllm::moe::dispatch_kernel<4>(int*)",
    "void deep_ep::layout::get_dispatch_layout<256, 4, 8>(long const*)",
    "void block_all_reduce_sum_f32<256>(float*, float*, int)",
    "warpAllReduceKernel",
    "void work<ncclRedOp_t>(ncclDevComm*)",
    "triton_poi_fused_all_reduce_copy_0",
    "triton_red_fused__to_copy_all_gather_into_tensor_add_3",
    "void flux::allgather_gemm_kernel<128>()",
    "torch::distributed::reducer::mul_out",
    "torch.distributed.ddp.reducer::copy_bucket_to_grad",
    "fsdp::all_gather_copy_in",
    "aten::gather",
    "aten::all",
    "aten::scatter_reduce",
    "aten::broadcast_tensors",
    "aten::addmm",
    "nvjet_sm90_tst_64x8_64x16_4x1_v_bz_TNT",
    "Memcpy HtoD (Pageable -> Device)",
    "DistributedDataParallel.forward",
    "",
]  # fmt: skip


@pytest.mark.parametrize("name", COLLECTIVES)
def test_communication_between_ranks_is_a_collective(name: str) -> None:
    assert is_collective(name)


@pytest.mark.parametrize("name", WORK)
def test_work_is_no_collective(name: str) -> None:
    assert not is_collective(name)


def test_the_function_of_a_kernel_keeps_its_namespaces() -> None:
    name = "void (anonymous namespace)::one_shot_all_reduce_kernel<c10::BFloat16, 16, 8>(c10::BFloat16**)"
    assert function_name(name) == "(anonymous namespace)::one_shot_all_reduce_kernel"
    assert function_name("ncclDevKernel_AllReduce_Sum_f32_RING_LL(ncclDevComm*)") == (
        "ncclDevKernel_AllReduce_Sum_f32_RING_LL"
    )
    assert function_name("<lambda>") == "<lambda>"
