"""The golden fixture of ChatGLM-6B, made with PaddleNLP's ChatGLMForCausalLM. Run by hand in the project's environment:

    .venv/bin/python tests/parity/make_chatglm_fixtures.py

PaddleNLP differs from the published model in two ways, which are put right here: its output layer is the word
embedding (the published one is a weight of its own), and its inverse frequencies are not rounded to float16. Its loss
is not used: it divides by all columns, labels of -100 included.
"""

import numpy as np
import paddle
import paddlenlp
from fixture_files import IGNORED, hide_padding, padded, random_weights, save, token_rows, under
from paddlenlp.transformers import ChatGLMConfig, ChatGLMForCausalLM
from paddlenlp.transformers.chatglm.modeling import ChatGLMHead

CONFIG = {
    "architectures": ["ChatGLMModel"],
    "model_type": "chatglm",
    "bos_token_id": 94,
    "eos_token_id": 95,
    "mask_token_id": 90,
    "gmask_token_id": 91,
    "pad_token_id": 3,
    "hidden_size": 48,
    "inner_hidden_size": 64,
    "layernorm_epsilon": 1e-05,
    "max_sequence_length": 2048,
    "num_attention_heads": 4,
    "num_layers": 2,
    "position_encoding_2d": True,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 96,
}
PAD, GMASK, BOS, EOS = (CONFIG[f"{name}_token_id"] for name in ("pad", "gmask", "bos", "eos"))
FIRST, LAST = 8, 90  # ordinary ids
FAR = (180, 120)  # times both position ids; the model's positions end at 2048
ADAMW = {"lr": 2e-3, "betas": [0.9, 0.95], "eps": 1e-08, "weight_decay": 0.1}
STEPS, BATCHES, NEW_TOKENS = 20, 4, 12
SEARCHES = {
    "greedy": {"decode_strategy": "greedy_search"},
    "beam": {"decode_strategy": "beam_search", "num_beams": 3, "length_penalty": 1.0},
}
RENAMED = {"chatglm.": "", "lm_head.decoder_weight": "lm_head.weight"}


def build():
    """PaddleNLP's model, evaluation mode, with an output layer of its own and float16-rounded inverse frequencies."""
    skipped = ("architectures", "model_type", "num_layers", "torch_dtype")
    config = ChatGLMConfig(
        **{key: value for key, value in CONFIG.items() if key not in skipped}, num_hidden_layers=CONFIG["num_layers"]
    )
    model = ChatGLMForCausalLM(config)
    model.lm_head = ChatGLMHead(config)
    rotary = model.chatglm.transformer.rotary_embeddings
    rotary.inv_freq = rotary.inv_freq.astype("float16").astype("float32")
    model.eval()
    return model


def published_name(name: str) -> str:
    for old, new in RENAMED.items():
        name = name.replace(old, new)
    return name


def turned(name: str, array: np.ndarray) -> np.ndarray:
    """Between Paddle's linear weights [in, out] and the published [out, in]; embedding and output layer stay."""
    is_linear = array.ndim == 2 and "embedding" not in name and "lm_head" not in name
    return np.ascontiguousarray(array.T) if is_linear else array


def set_weights(model, seed: int) -> dict[str, np.ndarray]:
    parameters = {published_name(name): weight for name, weight in model.named_parameters()}
    shapes = {name: turned(name, weight.numpy()).shape for name, weight in parameters.items()}
    weights = random_weights(shapes, seed)
    for name, weight in parameters.items():
        weight.set_value(turned(name, weights[name]))
    return weights


def framed(rows: list[list[int]], answers: list[list[int]]) -> list[list[int]]:
    """text + [gMASK] + sop + answer + eop, as ChatGLM-6B is trained; without answer, a prompt."""
    return [[*row, GMASK, BOS, *answer, *([EOS] if answer else [])] for row, answer in zip(rows, answers, strict=True)]


def batch_of(rows: list[list[int]], side: str, width: int | None = None) -> dict[str, np.ndarray]:
    """One batch with its mask and positions written out.

    Returns:
        input_ids, labels [B, T], labels[t] the token that follows column t or IGNORED; position_ids [B, 2, T];
        prefix_length [B], real tokens that see each other in both directions; attention_mask [B, T], 1 for real tokens.
    """
    width = width or max(map(len, rows))
    context = [row.index(BOS) for row in rows]
    first = [[*range(c), *[c - 1] * (len(row) - c)] for row, c in zip(rows, context, strict=True)]
    second = [[0] * c + [*range(1, len(row) - c + 1)] for row, c in zip(rows, context, strict=True)]
    labels = [[IGNORED] * c + row[c + 1 :] + [IGNORED] for row, c in zip(rows, context, strict=True)]
    return {
        "input_ids": padded(rows, PAD, side, width),
        "labels": padded(labels, IGNORED, side, width),
        "position_ids": np.stack([padded(first, 0, side, width), padded(second, 0, side, width)], axis=1),
        "attention_mask": padded([[1] * len(row) for row in rows], 0, side, width),
        "prefix_length": np.array(context),
    }


def visible(batch: dict[str, np.ndarray]) -> np.ndarray:
    """[B, 1, T, T] bool, true where the row's token sees the column's; a padding row sees everything."""
    real = batch["attention_mask"] == 1
    order = real.cumsum(axis=1) - 1
    prefix = real & (order < batch["prefix_length"][:, None])
    causal = np.tril(np.ones((real.shape[1],) * 2, dtype=bool))
    seen = (causal | prefix[:, None, :]) & real[:, None, :]
    return (seen | ~real[:, :, None])[:, None]


def run(model, batch: dict[str, np.ndarray]):
    """Loss, the mean over the trained columns, and logits [B, T, V]."""
    ids, positions, labels = (paddle.to_tensor(batch[key]) for key in ("input_ids", "position_ids", "labels"))
    logits = model(ids, positions, paddle.to_tensor(visible(batch)))[0]
    trained = labels >= 0
    return paddle.nn.functional.cross_entropy(logits[trained], labels[trained]), logits


def forward_case(model, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    with paddle.no_grad():
        loss, logits = run(model, batch)
    return {**batch, "logits": hide_padding(logits.numpy(), batch["attention_mask"]), "loss": loss.numpy()}


def random_rows(draw: np.random.Generator, sources: list[int], answers: list[int]) -> list[list[int]]:
    return framed(token_rows(draw, sources, FIRST, LAST), token_rows(draw, answers, FIRST, LAST))


def search(model, prompt: dict[str, np.ndarray], options: dict) -> dict[str, np.ndarray]:
    """Generated tokens [B, NEW_TOKENS], padded behind the end; of a beam search also the scores [B]."""
    tokens, scores = model.generate(
        paddle.to_tensor(prompt["input_ids"]),
        position_ids=paddle.to_tensor(prompt["position_ids"]),
        attention_mask=paddle.to_tensor(visible(prompt).astype("int64")),
        max_new_tokens=NEW_TOKENS,
        eos_token_id=EOS,
        pad_token_id=PAD,
        use_cache=True,
        **options,
    )
    arrays = {"tokens": padded(tokens.numpy().tolist(), PAD, "right", NEW_TOKENS)}
    return arrays | ({"scores": scores.numpy().flatten()} if "num_beams" in options else {})


def prompt_batch(draw: np.random.Generator) -> dict[str, np.ndarray]:
    batch = batch_of(framed(token_rows(draw, [7, 3, 5], FIRST, LAST), [[], [], []]), "left")
    return {name: array for name, array in batch.items() if name != "labels"}


def let_texts_end(model, weights: dict[str, np.ndarray], prompt: dict[str, np.ndarray]) -> None:
    """The end token swaps output weights with one that comes up at different steps of the greedy texts."""
    tokens = search(model, prompt, SEARCHES["greedy"])["tokens"]
    late = max({*tokens[:, 3:9].flatten()} - {EOS}, key=lambda token: _first_steps(tokens, token))
    head = weights["lm_head.weight"]
    head[[EOS, late]] = head[[late, EOS]]
    model.lm_head.decoder_weight.set_value(head)


def _first_steps(tokens: np.ndarray, token: int) -> int:
    """How many different steps the token first comes up at, over the rows."""
    return len({row.index(token) if token in row else None for row in tokens.tolist()})


def train_case(model, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """STEPS of AdamW, step i on batch i % BATCHES of 3 right-padded rows; the gradients are the first step's."""
    batches = [
        batch_of(random_rows(draw, draw.integers(2, 6, 3).tolist(), draw.integers(1, 5, 3).tolist()), "right", 12)
        for _ in range(BATCHES)
    ]
    optimizer = paddle.optimizer.AdamW(
        learning_rate=ADAMW["lr"],
        beta1=ADAMW["betas"][0],
        beta2=ADAMW["betas"][1],
        epsilon=ADAMW["eps"],
        weight_decay=ADAMW["weight_decay"],
        parameters=model.parameters(),
    )
    losses, gradients = [], {}
    for step in range(STEPS):
        loss, _ = run(model, batches[step % BATCHES])
        loss.backward()
        gradients = gradients or named_gradients(model)
        optimizer.step()
        optimizer.clear_grad()
        losses.append(float(loss))
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return {**under("train", {**stacked, "losses": np.array(losses)}), **under("gradient", gradients)}


def named_gradients(model) -> dict[str, np.ndarray]:
    named = {published_name(name): weight.grad.numpy() for name, weight in model.named_parameters()}
    return {name: turned(name, gradient) for name, gradient in named.items()}


def main() -> None:
    paddle.seed(0)
    model, draw = build(), np.random.default_rng(11)
    weights = set_weights(model, seed=7)
    prompt = prompt_batch(draw)
    let_texts_end(model, weights, prompt)
    rows = random_rows(draw, [6, 3, 5], [5, 2, 4])
    arrays = under("left_padded", forward_case(model, batch_of(rows, "left")))
    arrays |= under("right_padded", forward_case(model, batch_of(rows, "right")))
    far = batch_of(random_rows(draw, [6, 4], [4, 3]), "left")
    far["position_ids"] = far["position_ids"] * np.array(FAR)[None, :, None]
    arrays |= under("far", forward_case(model, far))
    arrays |= under("prompt", prompt)
    for name, options in SEARCHES.items():
        arrays |= under(name, search(model, prompt, options))
    arrays |= under("rope", {"inverse_frequencies": model.chatglm.transformer.rotary_embeddings.inv_freq.numpy()})
    arrays |= train_case(model, draw)
    settings = {
        "made_with": {"paddlepaddle": paddle.__version__, "paddlenlp": paddlenlp.__version__, "numpy": np.__version__},
        "stop_token_ids": [EOS],
        "pad_token_id": PAD,
        "max_new_tokens": NEW_TOKENS,
        "searches": SEARCHES,
        "adamw": ADAMW,
    }
    save("chatglm-6b", CONFIG, weights, arrays, settings)
    losses = arrays["train.losses"]
    print(f"losses {losses[0]:.4f} … {losses[-1]:.4f}", *(arrays[f"{name}.tokens"].tolist() for name in SEARCHES))


if __name__ == "__main__":
    main()
