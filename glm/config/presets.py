"""Models by name: the published ones, and a tiny one of each for tests and for trying things out.

A preset is only what differs from its family (glm/config/families.py). Needs no Paddle.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from errno import ENAMETOOLONG
from pathlib import Path
from typing import Any

from glm.errors import GLMError

BUNDLED = Path(__file__).resolve().parents[2] / "data"
OWNERS = ("THUDM", "zai-org")  # of the published repositories: one organisation under its old and its new name


@dataclass(frozen=True)
class Preset:
    """One model.

    Attributes:
        fields: of `GLMConfig`, what differs from the family.
        repository: of the weights on the Hugging Face Hub, None where nobody published any.
        tokenizer: directory in data/ of the tokenizer that comes with this project, None where the repository has it.
        vocabulary: key of `_BUNDLED` for its tiny model, the family unless given.
    """

    fields: Mapping[str, Any]
    repository: str | None = None
    tokenizer: str | None = None
    vocabulary: str | None = None


_STOP_IDS = {"eos_token_id": [151329, 151336, 151338], "pad_token_id": 151329}
_GLM4_9B = _STOP_IDS | {
    "vocab_size": 151552,
    "hidden_size": 4096,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "intermediate_size": 13696,
}
_REMOTE_9B = _GLM4_9B | {"family": "glm4-remote"}
_9B_0414 = _GLM4_9B | {"family": "glm4-0414", "max_position_embeddings": 32768}
_32B_0414 = _9B_0414 | {
    "hidden_size": 6144,
    "num_hidden_layers": 61,
    "num_attention_heads": 48,
    "intermediate_size": 23040,
    "attention_bias": False,
}
_CHATGLM2 = {
    "family": "chatglm2",
    "vocab_size": 65024,
    "hidden_size": 4096,
    "num_hidden_layers": 28,
    "num_attention_heads": 32,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "intermediate_size": 13696,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_8K, _32K, _128K = ({"max_position_embeddings": length} for length in (8192, 32768, 131072))


def _chatglm3(name: str, **fields: Any) -> Preset:
    return Preset(_CHATGLM2 | fields, f"THUDM/{name}", vocabulary="chatglm3")


_AIR = _STOP_IDS | {
    "family": "glm4-moe",
    "vocab_size": 151552,
    "hidden_size": 4096,
    "num_hidden_layers": 46,
    "num_attention_heads": 96,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 10944,
    "max_position_embeddings": 131072,
    "rope_theta": 1e6,
    "n_routed_experts": 128,
    "num_experts_per_tok": 8,
    "n_shared_experts": 1,
    "moe_intermediate_size": 1408,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
}
_355B = _AIR | {
    "hidden_size": 5120,
    "num_hidden_layers": 92,
    "intermediate_size": 12288,
    "n_routed_experts": 160,
    "moe_intermediate_size": 1536,
    "first_k_dense_replace": 3,
    "routed_scaling_factor": 2.5,
    "use_qk_norm": True,
}
_355B_LONG = _355B | {"max_position_embeddings": 202752}
_FLASH = {
    "family": "glm4-moe-lite",
    "vocab_size": 154880,
    "hidden_size": 2048,
    "num_hidden_layers": 47,
    "num_attention_heads": 20,
    "intermediate_size": 10240,
    "max_position_embeddings": 202752,
    "rope_theta": 1e6,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "n_routed_experts": 64,
    "num_experts_per_tok": 4,
    "n_shared_experts": 1,
    "moe_intermediate_size": 1536,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.8,
    "num_nextn_predict_layers": 1,
    "eos_token_id": [154820, 154827, 154829],
    "pad_token_id": 154820,
}

# The sources of the numbers stand beside them.
_PUBLISHED: dict[str, Preset] = {
    "glm-large-chinese": Preset({"family": "glm"}, "THUDM/glm-large-chinese"),
    "glm-10b-chinese": Preset(
        {"family": "glm", "hidden_size": 4096, "num_hidden_layers": 48, "num_attention_heads": 64},
        "THUDM/glm-10b-chinese",
    ),
    # Its published config.json.
    "chatglm-6b": Preset(
        {
            "family": "chatglm",
            "vocab_size": 130528,
            "hidden_size": 4096,
            "num_hidden_layers": 28,
            "num_attention_heads": 32,
            "intermediate_size": 16384,
            "max_position_embeddings": 2048,
            "bos_token_id": 130004,
            "eos_token_id": 130005,
            "pad_token_id": 3,
            "mask_token_id": 130000,
            "gmask_token_id": 130001,
        },
        "THUDM/chatglm-6b",
    ),
    # chatglm2-6b, chatglm3-6b, codegeex2-6b: their published config.json. Of the others no file was at hand: lengths
    # are those of the model list in THUDM/ChatGLM3's README; rope_ratio 50 of -32k is MindFormers' (research/glm32k/
    # run_glm32k.yaml), 500 of -128k is second hand. chatglm2-6b-32k is not here: by what it divides positions stands in
    # its own config.json alone, and that is read.
    "chatglm2-6b": Preset(_CHATGLM2 | _32K, "THUDM/chatglm2-6b"),
    "codegeex2-6b": Preset(_CHATGLM2 | _8K, "THUDM/codegeex2-6b"),
    "chatglm3-6b": _chatglm3("chatglm3-6b", **_8K),
    "chatglm3-6b-base": _chatglm3("chatglm3-6b-base", **_8K),
    "chatglm3-6b-32k": _chatglm3("chatglm3-6b-32k", **_32K, rope_theta=50 * 10000.0),
    "chatglm3-6b-128k": _chatglm3("chatglm3-6b-128k", **_128K, rope_theta=500 * 10000.0),
    # glm-4-9b-chat: its published config.json. The others differ from it in position and in key/value groups; of
    # glm-4-9b no file was at hand: its length is what THUDM/WebRL issue 23 quotes, its rope_ratio 1 the remote code's
    # default.
    "glm-4-9b": Preset(_REMOTE_9B | {"max_position_embeddings": 8192}, "THUDM/glm-4-9b"),
    "glm-4-9b-chat": Preset(
        _REMOTE_9B | {"max_position_embeddings": 131072, "rope_theta": 500 * 10000.0}, "THUDM/glm-4-9b-chat"
    ),
    "glm-4-9b-chat-1m": Preset(
        _REMOTE_9B | {"max_position_embeddings": 1048576, "rope_theta": 10000 * 10000.0, "num_key_value_heads": 4},
        "THUDM/glm-4-9b-chat-1m",
    ),
    # 9B: QKV biases; 32B: none. The config.json files as an audit of May 2026 quotes them field by field (transformers
    # Glm4, zai-org/*/raw/main/config.json); of GLM-Z1-32B-0414 the metadata of its GGUF conversion (ikawrakow/ik_llama.
    # cpp pull request 344), which agrees with GLM-4-32B-0414 in every size.
    "glm-4-9b-0414": Preset(_9B_0414, "zai-org/GLM-4-9B-0414"),
    "glm-z1-9b-0414": Preset(_9B_0414, "zai-org/GLM-Z1-9B-0414"),
    "glm-4-32b-0414": Preset(_32B_0414, "zai-org/GLM-4-32B-0414"),
    "glm-z1-32b-0414": Preset(_32B_0414, "zai-org/GLM-Z1-32B-0414"),
    # Air: its published config.json in a log of ms-swift; 4.5: what Megatron-Bridge's test and slime's script quote,
    # and the defaults of transformers 5.24.0; 4.6 and 4.7 differ in length.
    "glm-4.5": Preset(_355B, "zai-org/GLM-4.5"),
    "glm-4.5-base": Preset(_355B, "zai-org/GLM-4.5-Base"),
    "glm-4.5-air": Preset(_AIR, "zai-org/GLM-4.5-Air"),
    "glm-4.5-air-base": Preset(_AIR, "zai-org/GLM-4.5-Air-Base"),
    "glm-4.6": Preset(_355B_LONG, "zai-org/GLM-4.6"),
    "glm-4.7": Preset(_355B_LONG, "zai-org/GLM-4.7"),
    # What vLLM's test of it quotes, and the defaults of transformers 5.3.0.
    "glm-4.7-flash": Preset(_FLASH, "zai-org/GLM-4.7-Flash"),
}

_GLM4_IDS = {"eos_token_id": [754, 761, 763], "pad_token_id": 754}
# Family, or what a preset names instead → the tokenizer in data/ that is made like its own, rows of its vocabulary, and
# its ids of special tokens.
_BUNDLED: dict[str, tuple[str, int, dict[str, Any]]] = {
    "chatglm": (
        "chatglm-tiny",
        800,
        {"bos_token_id": 8, "eos_token_id": 9, "pad_token_id": 3, "mask_token_id": 4, "gmask_token_id": 5},
    ),
    "chatglm2": ("chatglm2-tiny", 832, {}),
    "chatglm3": ("chatglm3-tiny", 832, {}),
    "glm4-remote": ("glm4-tiny", 768, _GLM4_IDS),
    "glm4-0414": ("glm4-0414-tiny", 768, _GLM4_IDS),
    "glm4-moe": ("glm45-tiny", 800, _GLM4_IDS),
    "glm4-moe-lite": ("glm47-tiny", 800, {"eos_token_id": [748, 755, 757], "pad_token_id": 748}),
}
_WIDTH, _HEADS, _STEP = 128, 8, 16  # of tiny presets; their MLPs are multiples of the last


def _tiny(real: Preset) -> Preset:
    """The same model in every field but its sizes, for the bundled tokenizer of its family."""
    fields = real.fields
    tokenizer, rows, ids = _BUNDLED[real.vocabulary or fields["family"]]
    inner = fields["intermediate_size"] * _WIDTH / fields["hidden_size"]
    sizes = {
        "vocab_size": rows,
        "hidden_size": _WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": _HEADS,
        "head_dim": _WIDTH // _HEADS,
        "intermediate_size": _STEP * round(inner / _STEP),
    }
    return Preset({**fields, **sizes, **_few_experts(fields), **_narrow_latents(fields), **ids}, tokenizer=tokenizer)


def _few_experts(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As wide as the real ones beside the model, one dense layer in front, and none that predicts a token more."""
    if not fields.get("n_routed_experts"):
        return {}
    inner = fields["moe_intermediate_size"] * _WIDTH / fields["hidden_size"]
    experts = {"n_routed_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": _STEP * round(inner / _STEP)}
    return experts | {"first_k_dense_replace": 1, "num_nextn_predict_layers": 0}


def _narrow_latents(fields: Mapping[str, Any]) -> dict[str, Any]:
    """As wide as the real ones beside the model, or beside a head."""
    ranks, head = ("q_lora_rank", "kv_lora_rank"), _WIDTH // _HEADS
    narrow = {name: fields[name] * _WIDTH // fields["hidden_size"] for name in ranks if name in fields}
    return narrow and narrow | {"qk_nope_head_dim": head * 3 // 4, "qk_rope_head_dim": head // 4, "v_head_dim": head}


PRESETS: dict[str, Preset] = {
    # Small enough to learn the bundled samples in minutes on two cores.
    "glm-tiny-chinese": Preset(
        {
            "family": "glm",
            "vocab_size": 384,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "max_position_embeddings": 1024,
            "embedding_dropout": 0.0,
            "attention_dropout": 0.0,
            "hidden_dropout": 0.0,
        },
        tokenizer="glm-tiny-chinese",
    ),
    **_PUBLISHED,
    **{f"{name}-tiny": _tiny(real) for name, real in _PUBLISHED.items() if real.fields["family"] in _BUNDLED},
}
# MindFormers' names of ChatGLM-6B, whose weights they share; the latter generate as its `GLMChatModel` does.
CHAT_ALIASES = ("glm_6b_chat", "glm_6b_lora_chat")
ALIASES = dict.fromkeys(("glm_6b", "glm_6b_lora", *CHAT_ALIASES), "chatglm-6b")
# Presets that start from random weights because nobody published any.
UNTRAINED_PRESETS = frozenset(name for name, preset in PRESETS.items() if preset.repository is None)


def preset_name(name: str) -> str:
    """The key of `PRESETS` that a name means, in any case and with its owner: `THUDM/GLM-4-9B-0414` → `glm-4-9b-0414`.

    MindFormers' `glm_6b` and its like mean ChatGLM-6B.

    A name that means no preset is given back as it is: it may be a path.
    """
    if name.lower() in ALIASES:
        return ALIASES[name.lower()]
    owner, slash, rest = name.rpartition("/")
    known = not slash or owner.lower() in (each.lower() for each in OWNERS)
    return rest.lower() if known and rest.lower() in PRESETS else name


def is_directory(name: str | Path) -> bool:
    """Whether there is such a directory; an over-long name is none, where `Path.is_dir` raises."""
    try:
        return Path(name).is_dir()
    except OSError as error:
        if error.errno == ENAMETOOLONG:
            return False
        raise


def repository(name: str) -> str:
    """`owner/name` of a preset's weights on the Hugging Face Hub.

    Raises:
        GLMError: nobody published weights of this preset, or there is none of this name.
    """
    preset = PRESETS.get(preset_name(name))
    if preset is None:
        raise GLMError(f"'{name}' is not a preset; presets: {', '.join(PRESETS)}")
    if preset.repository is None:
        raise GLMError(f"nobody published weights of '{name}': it starts from random ones")
    return preset.repository


def bundled_tokenizer(name: str) -> Path:
    """The directory with the tokenizer of a tiny preset.

    Raises:
        GLMError: a preset whose tokenizer comes with its weights, or no preset; an installation without the checkout.
    """
    preset = PRESETS.get(preset_name(name))
    if preset is None or preset.tokenizer is None:
        known = ", ".join(sorted(UNTRAINED_PRESETS))
        raise GLMError(f"no tokenizer of '{name}' comes with this project, only of {known}: give a model directory")
    directory = BUNDLED / preset.tokenizer
    if not directory.is_dir():
        raise GLMError(
            f"the tokenizer of '{name}' is data/{preset.tokenizer} of a checkout of this project, and {directory} is "
            "not there: install the checkout itself with pip install -e, or give a model directory"
        )
    return directory
