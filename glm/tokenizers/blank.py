"""GLM (2021)'s blank: a prompt as the model takes it, with the columns that the model fills. numpy only."""

import numpy as np

from glm.errors import UsageError
from glm.tokenizers.batch_encoding import BatchEncoding


def generation_inputs(tokenizer, model_input, max_gen_length: int, targets, padding: bool) -> BatchEncoding:
    """See `GLMChineseTokenizer.build_inputs_for_generation`; S columns of source, G of the blank."""
    source_BS, seen_BS = (np.asarray(model_input[name]) for name in ("input_ids", "attention_mask"))
    rows, width = source_BS.shape
    started = np.full([rows, 1], tokenizer.sop_token_id, dtype="int64")
    trained = {}
    if targets is not None:
        texts = [targets] if isinstance(targets, str) else list(targets)
        answers = [_answer(tokenizer, text, max_gen_length) for text in texts]
        if len(answers) != rows:
            raise UsageError(f"there are {rows} rows and {len(answers)} targets: give one for each")
        max_gen_length = max_gen_length if padding else max(map(len, answers))
        started, trained = _targets(tokenizer, answers, max_gen_length, width)
    return BatchEncoding(
        {
            "input_ids": np.concatenate([source_BS, started], axis=1),
            "position_ids": np.stack([_positions(tokenizer, row, max_gen_length) for row in source_BS]),
            "attention_mask": _mask(seen_BS, max_gen_length),
            **trained,
        }
    )


def _answer(tokenizer, text: str, limit: int) -> list[int]:
    return [*tokenizer.text_ids(text)[: limit - 2], tokenizer.eop_token_id][:limit]


def _targets(tokenizer, answers: list[list[int]], size: int, width: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Start-of-piece and answers without their last token [B, G]; loss_mask and label_ids [B, S+G]."""
    pad, eop = tokenizer.pad_token_id, tokenizer.eop_token_id
    labels_BG = np.array([[*ids, *[pad] * (size - len(ids))] for ids in answers], dtype="int64")
    started_BG = np.insert(labels_BG[:, :-1], 0, tokenizer.sop_token_id, axis=1)
    trained_BG = (started_BG != pad) & (started_BG != eop)
    nothing_BS = np.zeros([len(answers), width], dtype="int64")
    pairs = {"loss_mask": trained_BG.astype("int64"), "label_ids": labels_BG}
    return started_BG, {name: np.concatenate([nothing_BS, value], axis=1) for name, value in pairs.items()}


def _positions(tokenizer, source: np.ndarray, size: int) -> np.ndarray:
    """[2, S+G]: the blank stands where the first mask token does."""
    found = np.flatnonzero(np.isin(source, tokenizer.mask_token_ids))
    if not len(found):
        raise UsageError("a row has no mask token: write [gMASK], [MASK] or [sMASK] where the answer goes")
    text = [*range(len(source)), *[found[0]] * size]
    return np.array([text, [*[0] * len(source), *range(1, size + 1)]], dtype="int64")


def _mask(seen_BS: np.ndarray, size: int) -> np.ndarray:
    """[B, 1, S+G, S+G]: all see the source, the blank also what stands before."""
    rows, width = seen_BS.shape
    mask = np.zeros([rows, 1, width + size, width + size], dtype="int64")
    mask[:, :, :, :width] = seen_BS[:, None, None, :]
    mask[:, :, width:, width:] = np.tril(np.ones([size, size], dtype="int64"))
    return mask
