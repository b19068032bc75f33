"""Operators, spans and Python functions that load data are told from others by their names."""

import pytest

from roseinfer.trace.facts.data_loading_names import frame_loads_data, loads_data


@pytest.mark.parametrize(
    "name",
    [
        "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__",
        "enumerate(DataLoader)#_MultiProcessingDataLoaderIter.__next__",
        "DataLoader",
        "dataloader.next",
        "data_loading",
        "## data ##",
        "load_batch",
        "get_batch",
        "next_batch",
        "fetch batch",
        "data_wait",
        "load images",
        "decode_jpeg",
        "collate_fn",
        "preprocess",
        "[pl][profile]run_training_epoch.train_dataloader_next",
        "prefetch_data",
        "prepare_data",
        "data_time",
        "loader",
        "prefetch_next",
        "get_next_sample",
        "dataset_getitem",
    ],
)
def test_spans_and_operators_of_data_loading(name: str) -> None:
    assert loads_data(name)


@pytest.mark.parametrize(
    "name",
    [
        "aten::mm",
        "aten::_embedding_bag_per_sample_weights_backward",
        "roseinfer.step",
        "roseinfer.prefix_cache.lookup",
        "roseinfer.decode_step_sessions.build_batched_past",
        "FSDP::pre_forward_prefetch",
        "weight prefetch",
        "kv_cache_load",
        "load_weights",
        "get_next_batch_to_run",
        "get_image_features",
        "decode",
        "decode_batch",
        "process_batch",
        "prefill",
        "forward",
        "execute_context_0(0)_generation_32(32)",
        "step[DECODE bs=32]",
        "ProfilerStep#3",
        "Optimizer.step#AdamW.step",
        "nccl:all_reduce",
        "sample",
        "sample_next",
        "Preprocess",
        "sample_tokens",
        "model loader",
        "get_data_ptr",
        "load_state_dict",
        "",
    ],
)
def test_other_spans_and_operators(name: str) -> None:
    assert not loads_data(name)


@pytest.mark.parametrize(
    "frame",
    [
        "train.py(12): load_and_resize",
        "torch/utils/data/dataloader.py(701): __next__",
        "torch/utils/data/_utils/fetch.py(52): fetch",
        "torchvision/transforms/functional.py(465): resize",
        "/opt/venv/lib/python3.12/site-packages/PIL/Image.py(2210): resize",
        "transformers/models/videomae/image_processing_videomae.py(210): preprocess",
        "transformers/pipelines/video_classification.py(129): preprocess",
        "my_project/dataset.py(40): read_video",
        "my_project/my_dataloader.py(40): run",
        "dataset.py(12): _load_sample",
        "detectron2/data/common.py(90): __getitem__",
        "/opt/venv/lib/python3.12/site-packages/fairseq/data/iterators.py(60): __next__",
        "my_project/transforms.py(20): random_flip",
        "monai/transforms/io/array.py(200): __call__",
        "my_project/my_loader.py(44): __next__",
        "corpus/shards.py(12): __getitem__",
    ],
)
def test_functions_of_data_loading(frame: str) -> None:
    assert frame_loads_data(frame)


@pytest.mark.parametrize(
    "frame",
    [
        "train.py(30): train_one_epoch",
        "torch/nn/modules/module.py(1743): _call_impl",
        "transformers/models/clip/modeling_clip.py(1241): get_image_features",
        "vllm/v1/worker/gpu_model_runner.py(1500): _prepare_inputs",
        "sglang/srt/managers/scheduler.py(1400): get_next_batch_to_run",
        "<built-in function zoom_shift>",
        "<frozen importlib._bootstrap>(1349): _load_unlocked",
        "torch/_dynamo/eval_frame.py(10): run",
        "safetensors/torch.py(300): load_file",
        "vllm/model_executor/model_loader/weight_loader.py(90): __iter__",
        "torch/nn/modules/container.py(300): __getitem__",
        "scheduler.py(30): __next__",
        "/data/home/user/serve.py(30): handle",
        "/data/train.py(3): loop",
        "my_project/data/train.py(3): main",
        "my_project/data/train.py(90): train_one_epoch",
        "dataloader_benchmark/run.py(3): <module>",
        "torch/distributions/transforms.py(90): __call__",
        "vllm/v1/sample/sampler.py(60): sample",
        "vllm/v1/worker/gpu_model_runner.py(2500): _preprocess",
        "sglang/srt/managers/scheduler.py(1400): get_next_batch",
    ],
)
def test_other_functions(frame: str) -> None:
    assert not frame_loads_data(frame)


@pytest.mark.parametrize("name", ["roseinfer.load_batch", "aten::decode_image", "FSDP::load_batch"])
def test_names_of_the_engine_of_torch_and_of_fsdp_load_no_data(name: str) -> None:
    assert loads_data(name.replace("::", ".").rpartition(".")[2]), "the last part alone does"
    assert not loads_data(name)
