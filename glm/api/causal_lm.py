"""`GLMForCausalLM`: the network behind the calls that its users know: `model(ids)`, `generate`, `chat`.

Shapes: B rows, T tokens, P position ids per token, V vocabulary, G new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import Tensor
from paddlenlp.transformers.model_outputs import CausalLMOutputWithPast

from glm.api.generation_defaults import GenerationDefaults, generation_defaults
from glm.api.model_inputs import Inputs, as_array, check_ids, check_unused, complete
from glm.api.options import CallOptions, read_options
from glm.errors import GLMError, UsageError
from glm.generation.config_json import NO_FILE, GenerationFile
from glm.generation.options import NOT_FINITE, GenerationConfig, StopTokens
from glm.generation.search import GenerationMixin, Prompt
from glm.inference.chat_mixin import ChatMixin
from glm.model.network import GLMNetwork
from glm.model.positions import POSITIONS

REDUCTIONS = ("mean", "none")


class GLMForCausalLM(GenerationMixin, ChatMixin, GLMNetwork):
    """A GLM with its language-model head: training loss, logits, generation, conversations, checkpoints.

    Example:
        >>> model = GLMForCausalLM.from_pretrained("checkpoints/glm-large-chinese")
        >>> logits = model(input_ids)
        >>> ids, scores = model.generate(input_ids, max_new_tokens=20)

    Attributes:
        tokenizer: of the model, for ids of blanks that neither config.json nor its directory names; None if not set.
        source_directory: where the weights come from.
    """

    tokenizer: Any = None
    source_directory: Path | None = None

    def forward(
        self,
        input_ids,
        attention_mask=None,
        position_ids=None,
        prefix_length=None,
        labels=None,
        label_smoothing: float = 0.0,
        *,
        reduction: str = "mean",
        loss_mask=None,
        visible_rows=None,
        return_dict: bool = False,
        token_type_ids=None,
        **others,
    ) -> Tensor | CausalLMOutputWithPast:
        """Logits, or with labels the loss.

        What is not given follows from the ids, as the original code has it: GLM (2021) and ChatGLM-6B read in both
        directions what stands before <|startofpiece|> or <sop>, whose positions are those of the blank ([gMASK] and its
        like); ids without either, and GLM-4's, are causal and count up.

        Args:
            input_ids: [B, T] or [T]; a tensor, a numpy array or a list.
            attention_mask: [B, T], 1 for real tokens; or [B, 1, T, T], 1 = visible, as the tokenizers of ChatGLM-6B and
                GLM (2021) give it. Without it the padding token is padding, where it ends no text.
            position_ids: [B, P, T], of GLM-4 [B, T].
            prefix_length: [B], leading columns that are visible in both directions.
            labels: [B, T], the token that should follow each column, as in PaddleNLP: they are NOT shifted here, where
                Hugging Face's libraries shift them; negative = not trained.
            label_smoothing: share of the probability mass spread over the whole vocabulary.
            reduction: of the losses of the trained tokens: "mean", or "none" for each token's.
            loss_mask: [B, T], 0 = not trained, as PaddleNLP's GLM has it.
            visible_rows: [B, 2, T], which queries see each column (glm/model/visibility.py); packed rows need it.
            return_dict: an object with `loss` and `logits`. token_type_ids: change nothing.
            others: of the libraries, at the value at which they do nothing: use_cache and output_hidden_states False,
                past_key_values None and the like.

        Returns:
            Logits [B, T, V] in the dtype of the weights; or the mean loss over the trained tokens, a 0-D tensor, or the
            loss [M] of each of them, float32, in the order of `labels`.

        Raises:
            UsageError: shapes that do not fit, an unknown reduction, ids and labels outside the vocabulary (tensors of
                all four inputs, as training gives them, are not looked into), or a model that does not know its blanks.
        """
        if reduction not in REDUCTIONS:
            raise UsageError(f"reduction is {reduction!r}, and must be {' or '.join(map(repr, REDUCTIONS))}")
        if others:
            check_unused(others)
        given = (input_ids, attention_mask, position_ids, prefix_length)
        inputs = given if _whole(given) else self._complete(*given)
        labels = _labels(labels, loss_mask, inputs[0])
        if labels is not None and not _whole(given):
            check_ids(labels.numpy(), self.config.vocab_size, "labels", negative=True)
        rows = _visible_rows(visible_rows, inputs[0])
        if not return_dict:
            return super().forward(*inputs, labels, label_smoothing, reduction, rows)
        loss = None if labels is None else super().forward(*inputs, labels, label_smoothing, reduction, rows)
        return CausalLMOutputWithPast(loss=loss, logits=super().forward(*inputs, visible_rows=rows))

    def _complete(self, *given) -> tuple[Tensor, ...]:
        """Inputs of `network`."""
        inputs = complete(self._generation_defaults(), *given)
        check_ids(inputs.input_ids, self.config.vocab_size, "input_ids")
        names = ("input_ids", "attention_mask", "position_ids", "prefix_length")
        return tuple(paddle.to_tensor(getattr(inputs, name)) for name in names)

    @paddle.no_grad()
    def generate(
        self,
        input_ids=None,
        generation_config: GenerationConfig | None = None,
        stopping_criteria: StopTokens | None = None,
        streamer: Any = None,
        *,
        attention_mask=None,
        position_ids=None,
        prefix_length=None,
        token_type_ids=None,
        **options,
    ) -> tuple[Tensor, Tensor]:
        """What the model writes behind prompts, as PaddleNLP's `generate` gives it.

        A `Prompt`, a `GenerationConfig` and `StopTokens` in the first three places go to the search as they are, and it
        gives scores [B].

        Args:
            input_ids, attention_mask, position_ids, prefix_length: as in `forward`: what a tokenizer's call gives. GLM
                (2021) fills the blank of a row, and <|startofpiece|> is put behind a row that lacks it.
            generation_config: decoding options to start from, instead of generation_config.json's.
            streamer: an object with `put(tokens [B, 1])` and `end()`; it gets new tokens only. One beam.
            token_type_ids: change nothing.
            options: see `glm.api.options.read_options`: max_new_tokens (or max_length, which counts new tokens here
                as it does in PaddleNLP; 20 if nothing says), min_new_tokens, decode_strategy, do_sample, num_beams,
                temperature, top_k (50 in sampling, as in both libraries), top_p, repetition_penalty, length_penalty,
                no_repeat_ngram_size, eos_token_id, pad_token_id, num_return_sequences, trunc_input, seed and others.

        Returns:
            ids [B · num_return_sequences, G] int64, the prompt left out, padded behind the end; scores [B ·
            num_return_sequences, 1] float32: of beams their score, else the mean log-probability of a text's tokens.

        Raises:
            UsageError: an unknown option, named with the nearest one there is; a prompt without blank; ids outside the
                vocabulary; more tokens than the model has positions for.
            GLMError: logits that are no numbers.
        """
        if isinstance(input_ids, Prompt):
            return self.generate_batch(input_ids, generation_config, stopping_criteria)
        if input_ids is None:
            raise UsageError("generate needs input_ids: what the tokenizer gives of a prompt")
        _check_objects(generation_config, stopping_criteria, streamer)
        text, file = self._generation_defaults(), self._generation_file()
        call = read_options(options, file, text.gnmt_length, generation_config)
        stop = self._stop(text, file, call, stopping_criteria)
        inputs = _with_blanks(text, complete(text, input_ids, attention_mask, position_ids, prefix_length))
        check_ids(inputs.input_ids, self.config.vocab_size, "input_ids")
        self._check_room(inputs, text, call.config)
        repeat = call.returned if call.config.num_beams == 1 else 1
        prompt = _prompt(_repeated(inputs, repeat), text, stop.pad_token_id)
        ids, scores = self._searched(prompt, call, stop, streamer)
        if not np.isfinite(scores.numpy()).all():
            raise GLMError(NOT_FINITE)
        if not call.trunc_input:
            before = np.repeat(as_array(inputs.input_ids, "input_ids"), call.returned, axis=0)
            ids = paddle.concat([paddle.to_tensor(before), ids], axis=1)
        return ids, scores

    def _searched(self, prompt: Prompt, call: CallOptions, stop: StopTokens, streamer) -> tuple[Tensor, Tensor]:
        """Ids [B, G] and scores [B, 1]."""
        if streamer is None:
            beams = call.returned if call.config.num_beams > 1 else 1
            ids, scores = self.generate_batch(prompt, call.config, stop, beams)
        else:
            ids, scores = self._streamed(prompt, call, stop, streamer)
        if call.config.num_beams == 1:
            scores = scores / _lengths(ids, stop).astype("float32")
        return ids, scores.unsqueeze(-1)

    def _streamed(self, prompt: Prompt, call: CallOptions, stop: StopTokens, streamer) -> tuple[Tensor, Tensor]:
        if call.config.num_beams > 1:
            raise UsageError(
                f"a streamer shows tokens as they come, and num_beams {call.config.num_beams} chooses late"
            )
        steps = self.steps(prompt, call.config, stop)
        while True:
            try:
                streamer.put(next(steps).unsqueeze(-1).cpu())
            except StopIteration as over:
                streamer.end()
                return over.value

    def _generation_defaults(self) -> GenerationDefaults:
        """Found once for each tokenizer that is set."""
        key = (id(self.tokenizer), self.source_directory)
        found = self.__dict__.get("_text")
        if found is None or found[0] != key:
            two_rows = POSITIONS[self.config.position_type].position_rows == 2
            found = (key, generation_defaults(self.config, self.tokenizer, self.source_directory, two_rows))
            self.__dict__["_text"] = found
        return found[1]

    def _generation_file(self) -> GenerationFile:
        return GenerationFile.read(self.source_directory) if self.source_directory else NO_FILE

    def _stop(
        self, text: GenerationDefaults, file: GenerationFile, call: CallOptions, given: StopTokens | None
    ) -> StopTokens:
        """The call's tokens, else generation_config.json's, else the model's."""
        if given:
            return given
        ends = call.eos_token_ids
        if ends is None:
            ends = tuple(file.eos_token_ids) or text.stop_token_ids
        pad = call.pad_token_id if call.pad_token_id is not None else text.pad_token_id
        pad = pad if pad is not None else (ends[0] if ends else 0)
        for index in (*ends, pad):
            if not 0 <= index < self.config.vocab_size:
                raise UsageError(f"token id {index} is not among the model's {self.config.vocab_size:,}")
        return StopTokens(ends, pad)

    def _check_room(self, inputs: Inputs, text: GenerationDefaults, config: GenerationConfig) -> None:
        last_BP, most = inputs.position_ids[:, :, -1], self.config.max_position
        needed = max(
            int(inputs.position_ids.max()), int((last_BP + (config.max_length - 1) * text.positions.step).max())
        )
        if needed > most:
            raise UsageError(
                f"prompts of up to {inputs.input_ids.shape[1]} tokens and {config.max_length} new ones need position "
                f"{needed}, and the model ends at {most}: ask for fewer (max_new_tokens)"
            )


def _whole(given: Sequence[Any]) -> bool:
    """Whether these are tensors of all four inputs, for the network as they are."""
    return all(isinstance(value, Tensor) for value in given) and given[1].ndim == 2 and given[2].ndim == 3


def _check_objects(config: Any, stop: Any, streamer: Any) -> None:
    if not isinstance(config, (GenerationConfig, type(None))):
        raise UsageError(
            f"generation_config is a {type(config).__name__}, and must be a glm.GenerationConfig: pass its entries as "
            "options of the call (**entries)"
        )
    if stop and not isinstance(stop, StopTokens):
        raise UsageError("stopping_criteria are not implemented: eos_token_id takes the ids that end a text")
    if streamer is not None and not (hasattr(streamer, "put") and hasattr(streamer, "end")):
        raise UsageError(f"streamer is a {type(streamer).__name__}, and must have put and end, as glm.TextStreamer has")


def _labels(labels, loss_mask, ids_BT: Tensor) -> Tensor | None:
    if labels is None:
        return None
    labels = labels if isinstance(labels, Tensor) else paddle.to_tensor(as_array(labels, "labels"))
    labels = labels.unsqueeze(0) if labels.ndim == 1 else labels
    if labels.shape != ids_BT.shape:
        raise UsageError(f"labels have the shape {list(labels.shape)}, and input_ids {list(ids_BT.shape)}")
    if loss_mask is None:
        return labels
    trained = paddle.to_tensor(as_array(loss_mask, "loss_mask")).reshape(labels.shape) != 0
    return paddle.where(trained, labels, paddle.full_like(labels, -100))


def _visible_rows(rows, ids_BT: Tensor) -> Tensor | None:
    if rows is None:
        return None
    rows = rows if isinstance(rows, Tensor) else paddle.to_tensor(as_array(rows, "visible_rows"))
    wanted = [ids_BT.shape[0], 2, ids_BT.shape[1]]
    if rows.shape != wanted:
        raise UsageError(f"visible_rows have the shape {list(rows.shape)}, and must have {wanted}: [B, 2, T]")
    return rows.astype("int32")


def _lengths(ids_BG: Tensor, stop: StopTokens) -> Tensor:
    """Tokens [B] of each text, the end included."""
    ends_BG = np.isin(ids_BG.numpy(), stop.eos_token_ids)
    whole = ids_BG.shape[1]
    return paddle.to_tensor(np.where(ends_BG.any(axis=1), ends_BG.argmax(axis=1) + 1, whole))


def _with_blanks(text: GenerationDefaults, inputs: Inputs) -> Inputs:
    """With the start of the blank behind rows that lack it. Raises UsageError where a row has no blank."""
    if text.start_token_id is None:
        return inputs
    real = [ids[seen > 0].tolist() for ids, seen in zip(inputs.input_ids, inputs.attention_mask, strict=True)]
    for number, ids in enumerate(real, 1):
        if not text.has_blank(ids):
            raise UsageError(f"prompt {number} has no mask token: write [gMASK] where the answer goes")
    lacking = [text.start_token_id not in ids for ids in real]
    if not any(lacking):
        return inputs
    grown = [[*ids, text.start_token_id] if lacks else ids for ids, lacks in zip(real, lacking, strict=True)]
    width = max(map(len, grown))
    pad = text.pad_token_id if text.pad_token_id is not None else 0
    padded = [[*[pad] * (width - len(ids)), *ids] for ids in grown]
    return complete(text, padded, [[0] * (width - len(ids)) + [1] * len(ids) for ids in grown])


def _repeated(inputs: Inputs, count: int) -> Inputs:
    fields = (inputs.input_ids, inputs.attention_mask, inputs.position_ids, inputs.prefix_length)
    return Inputs(*(np.repeat(value, count, axis=0) for value in fields)) if count > 1 else inputs


def _prompt(inputs: Inputs, text: GenerationDefaults, pad_token_id: int) -> Prompt:
    """Padding on the left only, where the token to decode from stands in the last column."""
    rows = [np.flatnonzero(seen) for seen in inputs.attention_mask]
    if not all(len(row) for row in rows):
        raise UsageError("a prompt has no token that the attention_mask shows")
    width = max(2, *map(len, rows))  # what is read before the first step must not be empty

    def left(values: np.ndarray, row: np.ndarray, fill: int) -> np.ndarray:
        kept = values[..., row]
        pads = [(0, 0)] * (kept.ndim - 1) + [(width - len(row), 0)]
        return np.pad(kept, pads, constant_values=fill)

    def stacked(values_B: np.ndarray, fill: int) -> Tensor:
        return paddle.to_tensor(np.stack([left(v, row, fill) for v, row in zip(values_B, rows, strict=True)]))

    inner = [int((row < prefix).sum()) for row, prefix in zip(rows, inputs.prefix_length, strict=True)]
    prefix = [n and n + width - len(row) for n, row in zip(inner, rows, strict=True)]
    return Prompt(
        stacked(inputs.input_ids, pad_token_id),
        stacked(inputs.attention_mask, 0),
        stacked(inputs.position_ids, 0),
        paddle.to_tensor(np.array(prefix, dtype="int64")),
        paddle.to_tensor(text.positions.step),
    )
