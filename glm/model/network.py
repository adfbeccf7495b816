"""The GLM decoder and its language-model head.

Shapes: B rows, T tokens, S prompt tokens, G beams per sequence, P position ids per token, H hidden, V vocabulary, M
target tokens of a batch.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute
from paddlenlp.transformers import PretrainedModel

from glm.config import chunks
from glm.config.glm_config import GLMConfig
from glm.distributed.plan import split_axis
from glm.distributed.sequence_parallel import add_up_gradients
from glm.distributed.tensor_parallel import Ranks, TokenShares, dropout, embedding, is_plain, linear
from glm.model.attention import AttentionDropout, CachedAttention, Prefix
from glm.model.attention_choice import attention_class, compute_dtype
from glm.model.head_loss import Head, chunked_losses, recomputed_losses
from glm.model.init import draw_seed, randomise, undrawn
from glm.model.layers import NORMS, AttentionFn, Block, tied_logits
from glm.model.loss import Target, smoothed_cross_entropy
from glm.model.positions import POSITIONS
from glm.model.pretrained import CheckpointMixin
from glm.model.visibility import derived_rows, key_bias


class GLMPretrainedModel(PretrainedModel):
    """What PaddleNLP's Trainer and PEFT expect of a model: configuration class and names."""

    config_class = GLMConfig
    base_model_prefix = "model"


class GLMModel(GLMPretrainedModel):
    """Word embeddings, positions, the blocks, the final norm."""

    def __init__(self, config: GLMConfig):
        super().__init__(config)
        self.embed_tokens = embedding(config, config.vocab_size, config.hidden_size)
        self.positions = POSITIONS[config.position_type](config)
        self.shares = TokenShares(Ranks(config))
        self.dropout = dropout(config, config.embedding_dropout)
        self.layers = nn.LayerList([Block(config) for _ in range(config.num_hidden_layers)])
        self.norm = NORMS[config.norm_type](config)
        self.enable_recompute = False

    def forward(self, input_ids_BT: Tensor, position_ids_BPT: Tensor, attention_fns: Sequence[AttentionFn]) -> Tensor:
        """Hidden states [B, T, H]; `attention_fns` is one attention function per layer (glm/model/attention.py)."""
        own_positions = self.shares.own(position_ids_BPT)
        x_BTH = self.dropout(self.positions.embed(self.embed_tokens(input_ids_BT), own_positions))
        rotate = self.positions.rotation(position_ids_BPT)
        if self.enable_recompute and self.training:
            # With frozen embeddings (LoRA) recompute would otherwise see no input that needs a gradient.
            x_BTH.stop_gradient = False
        for layer, attention_fn in zip(self.layers, attention_fns, strict=True):
            run = partial(recompute, layer) if self.enable_recompute and self.training else layer
            x_BTH = run(x_BTH, rotate, attention_fn)
        return self.shares.whole(self.norm(x_BTH))


class GLMNetwork(CheckpointMixin, GLMPretrainedModel):
    """A GLM with its language-model head: training loss, logits, cached decoding, checkpoints.

    `glm.GLMForCausalLM` (glm/api/causal_lm.py) puts the calls around it that its users know.
    """

    def __init__(self, config: GLMConfig):
        super().__init__(config)
        seed = draw_seed()
        with undrawn():
            self.model = GLMModel(config)
            self.lm_head = None
            if not config.tie_word_embeddings:
                self.lm_head = linear(config, "lm_head", config.hidden_size, config.vocab_size, bias=False)
        self.ranks, self.n_rep = Ranks(config), config.queries_per_kv
        randomise(self, seed)
        if config.sequence_parallel:
            whole = [p for name, p in self.named_parameters() if split_axis(name) is None]
            add_up_gradients(self, self.ranks, whole)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        position_ids: Tensor,
        prefix_length: Tensor,
        labels: Tensor | None = None,
        label_smoothing: float = 0.0,
        reduction: str = "mean",
        visible_rows: Tensor | None = None,
    ) -> Tensor:
        """Logits, or with labels the loss, of inputs that are whole.

        Args:
            input_ids: [B, T] int64.
            attention_mask: [B, T] int64, 1 for real tokens, 0 for padding.
            position_ids: [B, P, T] int64.
            prefix_length: [B] int64, leading columns that are visible in both directions.
            labels: [B, T] int64, the token that should follow each column; negative = not trained.
            label_smoothing: share of the probability mass spread over the whole vocabulary.
            reduction: of the losses, "mean" or "none".
            visible_rows: [B, 2, T] int32, which queries see each column (glm/model/visibility.py), in place of
                attention_mask and prefix_length, from which it follows where it is not given; packed rows need it.

        Returns:
            Logits [B, T, V], or the mean loss over the trained tokens, a 0-D tensor; without reduction the float32 loss
            [M] of each of them, in the order of `labels`.
        """
        shares, tokens = self.model.shares, input_ids.shape[1]
        input_ids, attention_mask, position_ids = map(shares.even, (input_ids, attention_mask, position_ids))
        if visible_rows is None:
            visible_rows = derived_rows(attention_mask, prefix_length)
        attention, mask = self._attention(shares.even(visible_rows))
        attention_fn = attention(mask, self.n_rep, self._attention_dropout())
        hidden_BTH = self.model(input_ids, position_ids, [attention_fn] * self.config.num_hidden_layers)
        if labels is None:
            return self.logits(shares.real(hidden_BTH, tokens))
        labels = shares.even(labels, padding=-1)
        # The head is the largest matmul of a small model: run it on the trained tokens only.
        trained_M = paddle.nonzero(labels.flatten() >= 0).flatten()
        hidden_MH = paddle.index_select(hidden_BTH.flatten(0, 1), trained_M)
        losses_M = self._losses(hidden_MH, labels.flatten()[trained_M], label_smoothing)
        return losses_M if reduction == "none" else losses_M.sum() / max(losses_M.shape[0], 1)

    def _losses(self, hidden_MH: Tensor, labels_M: Tensor, smoothing: float) -> Tensor:
        """[M] float32; of more tokens than a chunk has, the logits never exist together."""
        if not hidden_MH.shape[0]:  # no tensor without elements survives a PyLayer's backward pass
            return self._own_logits(hidden_MH).astype("float32").sum(axis=1)
        weight = self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight
        tied, dtype = self.lm_head is None, compute_dtype(weight)
        target = Target(smoothing, self.config.vocab_size, self.ranks, weight.shape[0 if tied else 1])
        if hidden_MH.shape[0] * target.width <= chunks.LOGITS:
            return smoothed_cross_entropy(self._own_logits(hidden_MH), labels_M, target)
        if tied or is_plain(self.lm_head):
            head = Head(weight, None if tied else self.lm_head.bias, tied, dtype)
            return chunked_losses(self.ranks.copy(hidden_MH), head, labels_M, target)
        return recomputed_losses(self._own_logits, hidden_MH, labels_M, target)  # an adapter stands in the head

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H], with a head of their own or the tied word embedding."""
        return self.ranks.gather_columns(self._own_logits(hidden), self.config.vocab_size)

    def _own_logits(self, hidden: Tensor) -> Tensor:
        """Logits of the part of the vocabulary that this rank holds."""
        if self.lm_head is not None:
            return self.lm_head(hidden)
        return tied_logits(self.ranks.copy(hidden), self.model.embed_tokens.weight)

    def prefill(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, prefix_length: Tensor) -> Prefix:
        """Reads a prompt once into the prefix of a cache; arguments as in `forward`."""
        attention, mask = self._attention(derived_rows(attention_mask, prefix_length))
        attention_fns = [attention.prefill(mask, self.n_rep) for _ in self.model.layers]
        self.model(input_ids, position_ids, attention_fns)
        return Prefix([a.keys for a in attention_fns], [a.values for a in attention_fns], key_bias(attention_mask))

    def decode(
        self, input_ids_BG: Tensor, position_ids_BPG: Tensor, prefix: Prefix, tails: list[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """One token more for every beam.

        Args:
            input_ids_BG: the newest token of each beam.
            position_ids_BPG: where it stands.
            prefix, tails: the cache (glm/model/attention.py).

        Returns:
            Logits [B, G, V] and the grown tails.
        """
        attention_fns = [
            CachedAttention(keys, values, prefix.bias, tail_keys, tail_values)
            for keys, values, tail_keys, tail_values in zip(
                prefix.keys, prefix.values, tails[::2], tails[1::2], strict=True
            )
        ]
        logits_BGV = self.logits(self.model(input_ids_BG, position_ids_BPG, attention_fns))
        return logits_BGV, [
            tail for attention_fn in attention_fns for tail in (attention_fn.tail_keys, attention_fn.tail_values)
        ]

    def _attention(self, visible_rows: Tensor) -> tuple[type, Any]:
        """The attention class of this device, and what is seen in its form."""
        dtype = compute_dtype(self.model.embed_tokens.weight)
        attention = attention_class(dtype, self.config.head_dim, self.n_rep, visible_rows)
        return attention, attention.mask(visible_rows, self.n_rep, dtype)

    def _attention_dropout(self) -> AttentionDropout | None:
        """Dropout of attention weights, whose heads each rank has for itself."""
        rate = self.config.attention_dropout if self.training else 0.0
        return AttentionDropout(rate, self.ranks.own_random_numbers) if rate else None

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens
