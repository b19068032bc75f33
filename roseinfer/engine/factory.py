"""`build_engine`: the one factory from a configuration to a running engine, used by every command."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import torch

from roseinfer.attention.backend import AttentionBackend
from roseinfer.attention.registry import attention_backend
from roseinfer.cache.block_pool import BlockPool
from roseinfer.cache.group_tables import GroupTables
from roseinfer.cache.kv_tensors import KVCache
from roseinfer.config import EngineConfig
from roseinfer.distributed.rank_channel import Kind
from roseinfer.distributed.rank_group import RankGroup
from roseinfer.distributed.rank_messages import decoded, encoded
from roseinfer.distributed.rank_team import RankTeam, team_of
from roseinfer.engine.device import (
    resolve_device,
    resolve_dtype,
    resolve_quantization,
    set_threads,
    spare_memory_bytes,
)
from roseinfer.engine.engine import Engine
from roseinfer.engine.graphs.step_graphs import StepGraphs
from roseinfer.engine.leading_runner import LeadingRunner
from roseinfer.engine.limits import StepLimits, activation_bytes, step_limits
from roseinfer.engine.memory import (
    check_positions_fit,
    check_step_fits,
    check_weights_fit,
    is_out_of_memory,
    kv_cache_bytes,
)
from roseinfer.engine.rank_devices import check_divides, rank_device, share_threads
from roseinfer.engine.rank_worker import serve_under_torchrun
from roseinfer.engine.runner import Runner
from roseinfer.engine.step_times import StepTimes
from roseinfer.errors import ModelError, UsageError
from roseinfer.kernels.cpu import native_library
from roseinfer.model_files import reading
from roseinfer.models.architectures import architecture
from roseinfer.models.causal_lm import CausalLM
from roseinfer.models.compiled_decoder import CompiledDecoder
from roseinfer.models.footprint import WeightBytes, count_parameters
from roseinfer.models.model_config import ModelConfig
from roseinfer.models.model_loading import check_weights, fill_dummy_weights, load_config, load_weights
from roseinfer.models.shapes import SHAPES
from roseinfer.models.tensor_parallel import Division, divide
from roseinfer.models.weight_slices import RankPart
from roseinfer.native_stderr import without_panic_reports
from roseinfer.progress import ProgressCallback
from roseinfer.text.assets import load_text
from roseinfer.text.generation_config import recommended_sampling
from roseinfer.text.tokenizer import Tokenizer
from roseinfer.weights.resolve import ModelSource, resolve
from roseinfer.weights.weight_reader import open_weights


def build_engine(
    config: EngineConfig, *, on_progress: ProgressCallback | None = None, source: ModelSource | None = None
) -> Engine:
    """Load the model and allocate its KV cache. `on_progress` is called with (bytes read, total bytes).

    `source` is what `resolve` found for `config.model`; without it the model is looked for.
    Raises ModelError for a model that cannot be found, read or run, or that needs more memory than there is, and
    UsageError for a setting that cannot work.
    """
    try:
        return (
            _engine(config, on_progress, source)
            if config.tensor_parallel == 1
            else _leading(config, on_progress, source)
        )
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise ModelError(
            f"{config.model} does not fit into the memory of {resolve_device(config.device)}: choose a smaller "
            "--dtype, --quantize it, lower --kv-cache-memory, or end other programs"
        ) from None


def build_rank(payload: bytes, group: RankGroup) -> Runner:
    """Build the runner of a rank other than 0, from the settings that rank 0 has sent."""
    config, source = decoded(payload, tuple[EngineConfig, ModelSource])
    return _engine(config, None, source, group=group).runner


def _leading(config: EngineConfig, on_progress: ProgressCallback | None, source: ModelSource | None) -> Engine:
    """Build the engine of rank 0. In a process that torchrun started as another rank, serve rank 0 and end."""
    device, place = rank_device(config)
    if place is not None and place.rank > 0:
        serve_under_torchrun(place, device, build_rank)
    started: list[RankTeam] = []

    def start() -> RankTeam:
        started.append(team_of(config.tensor_parallel, device.type, place))
        return started[0]

    try:
        engine = _engine(config, on_progress, source, start=start)
        started[0].wait_until_ready()
    except BaseException as error:
        for team in started:
            try:
                if isinstance(error, RuntimeError):
                    team.raise_cause(error)
            finally:
                team.close()
        raise
    return engine


def _engine(
    config: EngineConfig,
    on_progress: ProgressCallback | None,
    source: ModelSource | None,
    *,
    start: Callable[[], RankTeam] | None = None,
    group: RankGroup | None = None,
) -> Engine:
    """Build an engine that runs a whole model; or that of rank 0, which starts the others, or of a rank in a group."""
    set_threads(config.threads)
    device = rank_device(config)[0] if group is None else group.device
    if config.tensor_parallel > 1:
        share_threads(config.threads, config.tensor_parallel)
    given = config
    config = msgspec.structs.replace(config, compile=_with_native(config.compile, device))
    dtype = resolve_dtype(config.dtype, device)
    source = source or resolve(config.model, config.load_format, SHAPES)
    quantization = resolve_quantization(config, device, dtype, is_gguf=source.format == "gguf")
    if config.check_weights and source.format == "dummy":
        raise UsageError("--check-weights has no weights to check with --load-format dummy: drop one of them")
    with reading(source.name):
        reader = None if source.format == "dummy" else open_weights(source)
        model_config = load_config(source, reader)
        if reader is not None:
            check_weights(model_config, reader, source)
    check_divides(model_config, config.tensor_parallel, quantization)
    # The processes of other ranks start while this one reads the tokenizer.
    team = None if start is None else start()
    metadata = reader.description if reader is not None and source.format == "gguf" else None
    with reading(f"the tokenizer of {config.tokenizer or source.name}"), without_panic_reports():
        text = load_text(source, metadata, config.tokenizer)
        _check_vocabulary(text.tokenizer, config, source.name, model_config.vocab_size)
    max_model_len = _max_model_len(config, model_config)
    if device.type == "cpu" and model_config.rope is not None:
        check_positions_fit(source.name, max_model_len, model_config.head_dim)
    if team is not None:
        team.send(Kind.BUILD, encoded((given, source)))
        group = team.group(device)
    with reading(source.name):
        model, part = _build(model_config.limited_to(max_model_len), dtype, device, group)
    whole_config, model_config = model_config, model.config
    num_parameters = sum(view.numel() for view in model.weight_views().values())
    # A CPU's allocator overcommits and fails only when the memory is written to, so the size is checked before that.
    if device.type == "cpu":
        if quantization == "stored" and reader is not None:
            check_weights_fit(source.name, reader.total_bytes, "as stored in the file")
        else:
            arithmetic = f"{num_parameters:,} parameters x {dtype.itemsize} bytes"
            check_weights_fit(source.name, num_parameters * dtype.itemsize, arithmetic)
    if reader is None:
        fill_dummy_weights(model, config.seed, part)
    else:
        keep, check = quantization == "stored", config.check_weights
        with reading(source.name):
            load_weights(model, reader, source, dtype, on_progress, keep_quantized=keep, check_finite=check, rank=part)
    stored = WeightBytes.of(model)
    used = (stored.layers + stored.experts) // dtype.itemsize - model_config.idle_parameters
    pair_work = _pair_work(model_config, used)
    model.pack("none" if quantization == "stored" else quantization)
    if group is not None:
        group.prepare_joins(model_config.hidden_size, dtype)
    limits = step_limits(
        config,
        model_config,
        is_gpu=device.type == "cuda",
        max_model_len=max_model_len,
        element_bytes=dtype.itemsize,
        spare_bytes=_least(group, spare_memory_bytes(device)),
    )
    cache = _kv_cache(config, limits, model_config, max_model_len, dtype, device, group)
    attention = attention_backend(config.attention, cache)
    if group is None:
        model = CompiledDecoder.around(model, cache, attention) or model
    graphs = _step_graphs(config, limits, model, cache, attention, max_model_len)
    if team is None:
        runner = Runner(model, cache, attention, device, graphs, must_capture=group is not None)
    else:
        runner = LeadingRunner(model, cache, attention, device, graphs, team)
    return Engine(
        config=config,
        model_config=whole_config,
        model_name=source.name,
        num_parameters=num_parameters if part is None else count_parameters(whole_config),
        runner=runner,
        # The pool leaves out the last block: padding rows of CUDA graphs write to it.
        pool=BlockPool(
            cache.num_blocks - 1,
            cache.block_size,
            prefix_cache=config.prefix_cache,
            windows=model_config.layer_groups.windows,
        ),
        tokenizer=text.tokenizer,
        chat_template=text.chat_template,
        eos_token_ids=text.eos_token_ids,
        default_params=recommended_sampling(source),
        max_model_len=max_model_len,
        max_decode_steps=1 if graphs is None else graphs.max_steps,
        limits=limits,
        step_times=StepTimes(pair_work),
        overlap=device.type == "cuda" if config.overlap is None else config.overlap,
    )


def _with_native(wanted: bool | None, device: torch.device) -> bool:
    """Load the compiled CPU kernels, and return True if the engine uses them.

    `wanted` is `--compile`: True compiles them if necessary, False forbids them. None uses them if they are compiled
    already and on by default for this processor.
    """
    if device.type != "cpu":
        if wanted:
            raise UsageError(
                "--compile applies to the CPU only; a GPU uses Triton kernels and CUDA graphs: drop --compile"
            )
        return False
    if wanted is False and native_library.is_loaded():
        raise UsageError(
            "--no-compile comes too late: engines of this process already use the compiled kernels; start a new process"
        )
    if wanted:
        native_library.load()
    elif wanted is None and native_library.is_on_by_default():
        native_library.load_if_compiled()
    return native_library.is_loaded()


def _check_vocabulary(tokenizer: Tokenizer | None, config: EngineConfig, model: str, vocab_size: int) -> None:
    if tokenizer is None or tokenizer.vocab_size <= vocab_size:
        return
    if config.tokenizer is not None:
        raise UsageError(
            f"tokenizer {config.tokenizer} has {tokenizer.vocab_size} tokens, {model} only {vocab_size}: "
            "give the tokenizer that the model was trained with"
        )
    raise ModelError(f"{model}: the tokenizer has {tokenizer.vocab_size} tokens, the model {vocab_size}")


def _build(
    config: ModelConfig, dtype: torch.dtype, device: torch.device, group: RankGroup | None
) -> tuple[CausalLM, RankPart | None]:
    """Return an unloaded model; of several ranks, this rank's part of it, with the slices to load."""
    with _default_dtype(dtype), device:
        try:
            if group is None:
                return architecture(config.architecture).build(config).eval(), None
            division = Division(config, group.rank, group.size)
            model = architecture(config.architecture).build(division.config).eval()
            return model, RankPart(config, divide(model, division, group))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise ModelError(f"the model does not fit into the memory of {device}: choose a smaller --dtype") from None


def _max_model_len(config: EngineConfig, model_config: ModelConfig) -> int:
    longest = model_config.longest_context
    if config.max_model_len is not None and config.max_model_len > longest:
        raise UsageError(
            f"--max-model-len {config.max_model_len} exceeds the model's context of {longest} tokens: lower it"
        )
    return config.max_model_len or model_config.max_position_embeddings


def _pair_work(model: ModelConfig, layer_elements: int) -> float:
    """Return the FLOPs of attention per query-key pair, over all layers, relative to those of a token's weights."""
    return 2 * model.num_layers * model.num_heads * model.head_dim / max(layer_elements, 1)


def _kv_cache(
    config: EngineConfig,
    limits: StepLimits,
    model: ModelConfig,
    max_model_len: int,
    dtype: torch.dtype,
    device: torch.device,
    group: RankGroup | None,
) -> KVCache:
    """Allocate the KV cache that the settings allow, but at most for a full batch of the longest requests.

    What the activations of the largest step need is left free. All ranks have as many blocks as the one with the least
    memory.
    """
    groups = model.layer_groups
    tables = GroupTables(groups.windows, config.block_size)
    wanted = limits.max_batch_size * tables.most_held(max_model_len, limits.max_batch_tokens)
    block_bytes = groups.num_slots * model.layer_kv_bytes(dtype.itemsize) * config.block_size
    step_bytes = activation_bytes(
        model,
        limits.max_batch_tokens,
        samples=min(limits.max_batch_size, limits.max_batch_tokens),
        context_tokens=max(max_model_len, limits.max_batch_tokens),
        element_bytes=dtype.itemsize,
    )
    affordable = _least(group, kv_cache_bytes(config.kv_cache_memory, device, step_bytes) // block_bytes)
    if affordable < tables.num_groups:
        raise ModelError(
            f"the KV cache has no room for a single block of {tables.num_groups * block_bytes / 2**20:.1f} MiB on "
            f"{device}: "
            "raise --kv-cache-memory, or lower --block-size or --max-batch-tokens"
        )
    num_blocks = min(wanted, affordable)
    if config.kv_cache_memory is not None:
        check_step_fits(config.kv_cache_memory, num_blocks * block_bytes, step_bytes, device)
    while True:
        try:
            return KVCache(
                num_layers=groups.num_slots,
                num_groups=tables.num_groups,
                num_blocks=num_blocks + 1,
                block_size=config.block_size,
                num_kv_heads=model.num_kv_heads,
                head_dim=model.head_dim,
                dtype=dtype,
                device=device,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            # Another program took the memory meanwhile, or it is fragmented. Ranks need the same number of blocks.
            if num_blocks < 2 * tables.num_groups or group is not None:
                raise ModelError(f"{device} has no memory for a KV cache: end other programs that use it") from None
            num_blocks //= 2


def _step_graphs(
    config: EngineConfig,
    limits: StepLimits,
    model: CausalLM,
    cache: KVCache,
    attention: AttentionBackend,
    max_model_len: int,
) -> StepGraphs | None:
    """Return the CUDA graphs of an engine on a GPU; None if graphs are off or the attention backend needs the host."""
    if cache.data.device.type != "cuda" or not config.cuda_graphs or not attention.capturable:
        return None
    return StepGraphs(
        model,
        cache,
        attention,
        max_batch_size=limits.max_batch_size,
        max_blocks=-(-max_model_len // config.block_size),
        max_steps=config.max_decode_steps,
        scrap_block=cache.num_blocks - 1,
    )


def _least(group: RankGroup | None, value: int) -> int:
    """Return the smallest of the ranks' values, or the value of a process that is alone."""
    return value if group is None else group.least(value)


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
