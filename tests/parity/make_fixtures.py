"""Golden fixtures of GLM-4-9B (Glm), GLM-4-0414 (Glm4), GLM-4.5 (Glm4Moe) and GLM-4.7-Flash (Glm4MoeLite).

Made with torch and transformers.

Run by hand:

    python3.11 -m venv /tmp/parity && /tmp/parity/bin/pip install -r requirements-parity.txt
    /tmp/parity/bin/python tests/parity/make_fixtures.py

ChatGLM-6B's come from make_chatglm_fixtures.py, in the project's own environment.
"""

import copy
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
import transformers
from fixture_files import (
    FIXTURES,
    IGNORED,
    causal_batch,
    hide_padding,
    load,
    padded,
    random_weights,
    save,
    token_rows,
    under,
)
from rope_cases import CASES, LOGITS, WIDE, config_of
from rope_cases import MODELS as SCALED_MODELS
from safetensors.numpy import load_file, save_file
from transformers import (
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
    GlmConfig,
    GlmForCausalLM,
)
from transformers.models.glm.modeling_glm import GlmRotaryEmbedding

# Ids below FIRST are left to padding and to the stop tokens. 0 would not do: transformers' beam search takes a padding
# id of 0 for none.
PAD, FIRST, VOCAB = 5, 8, 80
FAR = 100_003  # a text whose fifth token stands so much further
SHAPE = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 16}
GLM = {"intermediate_size": 40, "rms_norm_eps": 1.5625e-07, "max_position_embeddings": 131072}
GLM4 = {"intermediate_size": 40, "rms_norm_eps": 1e-05, "max_position_embeddings": 131072}
GLM4_MOE = GLM4 | {
    "num_key_value_heads": 2,
    "attention_bias": True,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "first_k_dense_replace": 1,
}
GLM4_LITE = GLM4 | {
    "num_key_value_heads": 4,
    "q_lora_rank": 20,
    "kv_lora_rank": 18,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 12,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
}
EIGHT_HEADS = {"num_attention_heads": 8, "head_dim": 8, "num_key_value_heads": 4}
# name → (classes, deltas, rope_ratio). rope_ratio multiplies the rotary base 10000.
MODELS = {
    "glm-g2-bias-rope1": ("glm", {"num_key_value_heads": 2, "attention_bias": True}, 1),
    "glm-g4-bias-rope500": ("glm", {**EIGHT_HEADS, "attention_bias": True}, 500),
    "glm-g1-nobias-rope500": ("glm", {"num_key_value_heads": 1, "attention_bias": False}, 500),
    "glm4-g2-bias-rope1": ("glm4", {"num_key_value_heads": 2, "attention_bias": True}, 1),
    "glm4-g4-bias-rope500": ("glm4", {**EIGHT_HEADS, "attention_bias": True}, 500),
    "glm4-g1-nobias-rope1": (
        "glm4",
        {"num_key_value_heads": 1, "attention_bias": False, "num_hidden_layers": 3, "hidden_size": 24},
        1,
    ),
    "glm4moe-air": ("glm4_moe", {}, 100),
    "glm4moe-groups-qknorm": (
        "glm4_moe",
        {"n_group": 2, "topk_group": 1, "routed_scaling_factor": 2.5, "use_qk_norm": True, "num_hidden_layers": 3},
        100,
    ),
    "glm4moe-unnormed": (
        "glm4_moe",
        {"norm_topk_prob": False, "n_shared_experts": 2, "num_experts_per_tok": 3, "routed_scaling_factor": 1.8},
        1,
    ),
    "glm4lite-flash": (
        "glm4_moe_lite",
        {"qk_nope_head_dim": 12, "qk_rope_head_dim": 4, "v_head_dim": 16, "num_experts_per_tok": 3},
        100,
    ),
    "glm4lite-widths": (
        "glm4_moe_lite",
        {
            "attention_bias": True,
            "num_hidden_layers": 3,
            "mlp_layer_types": ["dense", "dense", "sparse"],
            "n_routed_experts": 4,
            "n_group": 2,
            "topk_group": 1,
        },
        1,
    ),
}
# Where the default seed leaves a result to rounding, or an expert without tokens.
SEEDS = {"glm4-g1-nobias-rope1": 16, "glm4lite-flash": 21, "glm4lite-widths": 14}
CLASSES = {
    "glm": (GlmConfig, GlmForCausalLM, GLM),
    "glm4": (Glm4Config, Glm4ForCausalLM, GLM4),
    "glm4_moe": (Glm4MoeConfig, Glm4MoeForCausalLM, GLM4_MOE),
    "glm4_moe_lite": (Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM, GLM4_LITE),
}
ADAMW = {"lr": 2e-3, "betas": [0.9, 0.95], "eps": 1e-08, "weight_decay": 0.1}
STEPS, BATCHES, NEW_TOKENS = 20, 4, 12
SEARCHES = {
    "greedy": {"num_beams": 1},
    "beam": {"num_beams": 3, "length_penalty": 1.0, "early_stopping": False},
    "beam_early": {"num_beams": 3, "length_penalty": 0.7, "early_stopping": True},
    "beam_full": {"num_beams": 3, "length_penalty": 1.0, "early_stopping": False, "min_new_tokens": NEW_TOKENS},
}


def build(name: str, seed: int):
    """The named model with random weights, in evaluation mode, with eager attention."""
    family, deltas, ratio = MODELS[name]
    config_class, model_class, defaults = CLASSES[family]
    fields, turned = {**SHAPE, **defaults, **deltas}, 0.5
    if "qk_rope_head_dim" in fields:  # which transformers calls head_dim, too
        fields, turned = fields | {"head_dim": fields["qk_rope_head_dim"]}, 1.0
    rope = {"rope_type": "default", "rope_theta": 10000.0 * ratio, "partial_rotary_factor": turned}
    config = config_class(**fields, pad_token_id=PAD, eos_token_id=None, rope_parameters=rope)
    how = {"attn_implementation": "eager", "experts_implementation": "eager"}  # grouped_mm has no float64
    model = model_class._from_config(config, **how, dtype=torch.float32).eval()
    shapes = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    weights = random_weights(shapes, seed)
    weights["lm_head.weight"][PAD] = 0  # so that no text contains it
    for key, weight in weights.items():  # small latents, so that their norms' epsilon counts
        if key.endswith(("q_a_proj.weight", "kv_a_proj_with_mqa.weight")) and not config.attention_bias:
            weight[: config.kv_lora_rank if "kv_a" in key else None] *= 0.1
    model.load_state_dict({key: torch.from_numpy(value) for key, value in weights.items()})
    return model


def tensors(batch: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(array.astype("int64")) for name, array in batch.items()}


def forward_case(model, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with torch.no_grad():
        out = model(**tensors(batch), use_cache=False)
    return {**batch, "logits": hide_padding(out.logits.numpy(), batch["attention_mask"]), "loss": out.loss.numpy()}


def forward_cases(model, draw: np.random.Generator) -> dict[str, np.ndarray]:
    rows = token_rows(draw, [12, 9, 5], FIRST, VOCAB)
    far = causal_batch(token_rows(draw, [10, 7], FIRST, VOCAB), PAD, "left")
    far["position_ids"] += FAR * (far["position_ids"] >= 4)
    return {
        **under("left_padded", forward_case(model, causal_batch(rows, PAD, "left"))),
        **under("right_padded", forward_case(model, causal_batch(rows, PAD, "right"))),
        **under("far", forward_case(model, far)),
    }


def choose_stop_tokens(model, prompt: dict[str, torch.Tensor]) -> list[int]:
    """Three stop tokens; with the first, the rows' texts end at as many different steps as can be had."""
    tokens = search(model, prompt, SEARCHES["greedy"], None)["tokens"]
    candidates = sorted({int(token) for token in tokens[:, 3:9].flatten()} - {2, 3})

    def distinct_ends(stop: int) -> int:
        found = [search(model, prompt, SEARCHES[name], [stop, 2, 3])["tokens"] for name in ("greedy", "beam")]
        return sum(len({tuple(row == PAD) for row in tokens}) for tokens in found)

    return [max(candidates, key=distinct_ends), 2, 3]


def search(model, prompt: dict[str, torch.Tensor], options: dict, stop: list[int] | None) -> dict[str, np.ndarray]:
    """Generated tokens [B, NEW_TOKENS] int64, padded behind the end; with beams also the scores [B] float32."""
    found = model.generate(
        **prompt,
        **options,
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=stop,
        pad_token_id=PAD,
        return_dict_in_generate=True,
        output_scores=True,
    )
    texts = found.sequences[:, prompt["input_ids"].shape[1] :].tolist()
    arrays = {"tokens": padded(texts, PAD, "right", NEW_TOKENS)}
    return arrays | ({"scores": found.sequences_scores.numpy()} if options["num_beams"] > 1 else {})


def generation_cases(model, draw: np.random.Generator) -> tuple[dict[str, np.ndarray], list[int]]:
    rows = token_rows(draw, [7, 4, 6], FIRST, VOCAB)
    ids, mask = padded(rows, PAD, "left"), padded([[1] * len(row) for row in rows], 0, "left")
    prompt = tensors({"input_ids": ids, "attention_mask": mask})
    stop = choose_stop_tokens(model, prompt)
    found = {name: search(model, prompt, options, stop) for name, options in SEARCHES.items()}
    require_clear_choices(model, prompt, stop, found)
    cases = {"prompt": {"input_ids": ids, "attention_mask": mask}, **found}
    return {key: value for name, arrays in cases.items() for key, value in under(name, arrays).items()}, stop


def require_clear_choices(model, prompt, stop: list[int], found: dict[str, dict[str, np.ndarray]]) -> None:
    """Weights that are off by 1e-5 must give the same tokens, or rounding would decide a test: take another seed."""
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    draw = torch.Generator().manual_seed(0)
    noisy = {key: value * (1 + 1e-5 * torch.randn(value.shape, generator=draw)) for key, value in kept.items()}
    model.load_state_dict(noisy)
    for name, options in SEARCHES.items():
        if not np.array_equal(search(model, prompt, options, stop)["tokens"], found[name]["tokens"]):
            raise SystemExit(f"{name} hangs on rounding: change the seed")
    model.load_state_dict(kept)


def train_case(model, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """STEPS of AdamW, step i on batch i % BATCHES of 3 right-padded rows; the gradients are the first step's.

    A gradient that is zero but for rounding, which AdamW scales up to a full step, must not decide the losses.
    """
    lengths = [draw.integers(5, 11, 3).tolist() for _ in range(BATCHES)]
    batches = [_widen(causal_batch(token_rows(draw, row, FIRST, VOCAB), PAD, "right"), 10) for row in lengths]
    exact, _ = train(copy.deepcopy(model).double(), batches)
    losses, gradients = train(model, batches)
    if np.abs(losses / exact - 1).max() > 1e-5:
        raise SystemExit("the losses of float32 and float64 part: change the seed")
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return {**under("train", {**stacked, "losses": losses}), **under("gradient", published(gradients))}


def published(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Under the names of files, where every expert has tensors of its own."""
    found = {}
    for name, array in arrays.items():
        front, _, last = name.rpartition(".experts.")
        if not front:
            found[name] = array
            continue
        halves = np.split(array, 2, axis=1) if last == "gate_up_proj" else [array]
        names = ["gate_proj", "up_proj"] if last == "gate_up_proj" else [last]
        for half, part in zip(names, halves, strict=True):
            found |= {f"{front}.experts.{e}.{half}.weight": each.copy() for e, each in enumerate(part)}
    return found


def train(model, batches: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The losses of STEPS of AdamW, and the first step's gradients."""
    optimizer = torch.optim.AdamW(model.parameters(), **ADAMW)
    losses, gradients = [], {}
    for step in range(STEPS):
        loss = model(**tensors(batches[step % BATCHES]), use_cache=False).loss
        optimizer.zero_grad()
        loss.backward()
        gradients = gradients or {name: weight.grad.numpy().copy() for name, weight in model.named_parameters()}
        optimizer.step()
        losses.append(loss.item())
    return np.array(losses), gradients


def _widen(batch: dict[str, np.ndarray], width: int) -> dict[str, np.ndarray]:
    """All batches equally wide, so that they stack: more padding, which changes nothing."""
    fill = {"input_ids": PAD, "attention_mask": 0, "position_ids": 0, "labels": IGNORED}
    return {
        name: np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=fill[name])
        for name, array in batch.items()
    }


def written_config(model, stop: list[int]) -> dict:
    """config.json as transformers writes it, after a round trip through its reader that keeps every weight."""
    model.config.eos_token_id = stop
    model.generation_config.eos_token_id = stop
    with TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        again = type(model).from_pretrained(directory)
        for name, value in model.state_dict().items():
            if not torch.equal(value, again.state_dict()[name]):
                raise SystemExit(f"{name} changed in transformers' own round trip")
        stored = load_file(Path(directory) / "model.safetensors")
        if set(stored) != set(published({key: value.numpy() for key, value in model.state_dict().items()})):
            raise SystemExit("the file's names are not the model's")
        return json.loads((Path(directory) / "config.json").read_text(encoding="utf-8"))


def make(name: str) -> None:
    seed = SEEDS.get(name, 1 + list(MODELS).index(name))
    model, draw = build(name, seed), np.random.default_rng(seed)
    weights = published({key: value.numpy().copy() for key, value in model.state_dict().items()})
    arrays = forward_cases(model, draw)
    generation, stop = generation_cases(model, draw)
    config = written_config(model, stop)
    arrays |= generation | under("rope", {"inverse_frequencies": model.model.rotary_emb.inv_freq.numpy()})
    arrays |= train_case(model, draw)
    settings = {
        "made_with": {"torch": torch.__version__, "transformers": transformers.__version__, "numpy": np.__version__},
        "rope_ratio": MODELS[name][2],
        "stop_token_ids": stop,
        "pad_token_id": PAD,
        "max_new_tokens": NEW_TOKENS,
        "searches": SEARCHES,
        "adamw": ADAMW,
    }
    save(name, config, weights, arrays, settings)
    report(name, arrays, stop)


def report(name: str, arrays: dict[str, np.ndarray], stop: list[int]) -> None:
    losses = arrays["train.losses"]
    print(
        f"{name}: losses {losses[0]:.4f} … {losses[-1]:.4f}, far logits up to {np.abs(arrays['far.logits']).max():.2f}"
    )
    for search in SEARCHES:
        print(f"  {search}: {arrays[search + '.tokens'].tolist()} (stop {stop[0]})")


def make_rotary() -> None:
    """Inverse frequencies of the published models, heads of 128, for rope_ratio 1, 500 (chat) and 10000 (chat-1m)."""
    frequencies = {}
    for ratio in (1, 500, 10000):
        rope = {"rope_type": "default", "rope_theta": 10000.0 * ratio, "partial_rotary_factor": 0.5}
        found, _ = GlmRotaryEmbedding.compute_default_rope_parameters(GlmConfig(rope_parameters=rope))
        frequencies[f"base_{10000 * ratio}"] = found.numpy()
    save_file(frequencies, FIXTURES / "rotary.safetensors")


def make_scaled_rotary(directory: Path = FIXTURES) -> None:
    """Frequencies of heads of 128, the factor of cosines and sines, and logits, of every case of rope_cases.py."""
    arrays = {}
    for case in CASES:
        config = GlmConfig.from_dict(config_of(load(SCALED_MODELS[1]).config, case) | WIDE)
        rotary = GlmRotaryEmbedding(config)
        factor = np.float64([rotary.attention_scaling])
        arrays |= under(case, {"frequencies": rotary.inv_freq.numpy(), "factor": factor})
        for name in SCALED_MODELS if case in LOGITS else ():
            arrays |= under(case, {name: scaled_logits(name, case)})
    save_file(arrays, directory / "scaled_rotary.safetensors")


def scaled_logits(name: str, case: str) -> np.ndarray:
    """Of the fixture's long-position case."""
    fixture = load(name)
    config_class, model_class, _ = CLASSES[fixture.config["model_type"]]
    config = config_class.from_dict(config_of(fixture.config, case))
    model = model_class._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    model.load_state_dict({key: torch.from_numpy(value) for key, value in fixture.weights.items()})
    batch = fixture.case("far")
    inputs = {key: batch[key] for key in ("input_ids", "attention_mask", "position_ids")}
    with torch.no_grad():
        return hide_padding(model(**tensors(inputs), use_cache=False).logits.numpy(), batch["attention_mask"])


if __name__ == "__main__":
    for name in sys.argv[1:] or MODELS:
        make(name)
    if not sys.argv[1:]:
        make_rotary()
        make_scaled_rotary()
