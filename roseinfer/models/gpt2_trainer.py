"""GPT-2 in a trainer checkpoint, which has its own names, matrices as [out_features, in_features], and exact GELU."""

from torch import Tensor

from roseinfer.errors import ModelError
from roseinfer.models.dialect import Checkpoint, Dialect, WeightPlace
from roseinfer.models.fields import size
from roseinfer.models.model_config import ModelConfig

_LAYER_NORM_EPS = 1e-5  # torch's default; the checkpoint has no field for it

_GLOBAL = {
    "token_embedding": "transformer.wte",
    "position_embedding": "transformer.wpe",
    "ln_f": "transformer.ln_f",
    "lm_head": "lm_head",
}
_LAYER = {"ln1": "ln_1", "ln2": "ln_2"}
_MATRICES = {
    "attn.qkv_proj": "attn.c_attn",
    "attn.out_proj": "attn.c_proj",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
}


def config_from_trainer(checkpoint: Checkpoint) -> ModelConfig:
    """Convert a trainer checkpoint's `config` to a ModelConfig.

    The names of the tensors tell which biases exist, and whether the head is tied.
    """
    raw, names = checkpoint.fields, checkpoint.tensor_names
    hidden_size, num_heads = size(raw, "d_model"), size(raw, "n_heads")
    if hidden_size % num_heads:
        raise ModelError(f"d_model {hidden_size} is not a multiple of n_heads {num_heads}")
    return ModelConfig(
        architecture="gpt2",
        vocab_size=size(raw, "vocab_size"),
        hidden_size=hidden_size,
        num_layers=size(raw, "n_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        intermediate_size=size(raw, "d_ff"),
        max_position_embeddings=size(raw, "max_position_embeddings"),
        norm_eps=_LAYER_NORM_EPS,
        tie_word_embeddings="lm_head.weight" not in names,
        activation="gelu",
        qkv_bias="blocks.0.attn.qkv_proj.bias" in names,
        output_bias="blocks.0.attn.out_proj.bias" in names,
        mlp_bias="blocks.0.mlp.fc1.bias" in names,
        norm_bias="ln_f.bias" in names,
        head_bias="lm_head.bias" in names,
    )


def trainer_weight(name: str, _config: ModelConfig) -> WeightPlace | None:
    """Map a stored tensor's name to GPT-2's. Matrices are transposed to GPT-2's order, [in_features, out_features]."""
    module, _, kind = name.rpartition(".")
    if module in _GLOBAL:
        return f"{_GLOBAL[module]}.{kind}", None
    block, _, module = module.removeprefix("blocks.").partition(".")
    if name.startswith("blocks.") and module in _LAYER:
        return f"transformer.h.{block}.{_LAYER[module]}.{kind}", None
    if name.startswith("blocks.") and module in _MATRICES:
        transform = Tensor.t if kind == "weight" else None
        return f"transformer.h.{block}.{_MATRICES[module]}.{kind}", transform
    return name, None  # unknown, so loading refuses it by this name


GPT2_TRAINER = Dialect(config_from_trainer, trainer_weight)
