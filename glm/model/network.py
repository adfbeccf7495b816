"""The GLM decoder and its language-model head.

Shapes: B rows, T tokens, S prompt tokens, G beams per sequence, P position ids per token, H hidden, V vocabulary, M
target tokens of a batch.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import paddle
from paddle import Tensor, nn
from paddle.distributed.fleet.utils import recompute
from paddlenlp.transformers import PretrainedModel

from glm.config.chunks import even_chunks
from glm.config.glm_config import GLMConfig
from glm.distributed.plan import split_axis
from glm.distributed.sequence_parallel import add_up_gradients
from glm.distributed.tensor_parallel import Ranks, TokenShares, dropout, embedding, is_plain, linear
from glm.model.attention import AttentionDropout, Prefix
from glm.model.attention_choice import attention_class, compute_dtype
from glm.model.balance import Balance
from glm.model.caches import divided, filled, filling, going_on, reading
from glm.model.experts import mlp
from glm.model.head_loss import Head, chunked_losses, recomputed_losses
from glm.model.init import draw_seed, randomise, undrawn
from glm.model.latent_attention import self_attention
from glm.model.layers import NORMS, AttentionFn, Block, tied_logits
from glm.model.loss import Target, log_probs, smoothed_cross_entropy
from glm.model.positions import POSITIONS, Rotate
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
        layers = range(config.num_hidden_layers)
        self.layers = nn.LayerList([Block(config, self_attention(config), mlp(config, i)) for i in layers])
        self.norm = NORMS[config.norm_type](config)
        self.enable_recompute = False
        self.balance: Balance | None = None
        self.balance_losses: list[Tensor] = []  # of the last training step, one a layer with experts

    def forward(self, input_ids_BT: Tensor, position_ids_BPT: Tensor, attention_fns: Sequence[AttentionFn]) -> Tensor:
        """Hidden states [B, T, H]; `attention_fns` is one attention function per layer (glm/model/attention.py)."""
        x_BTH, rotate = self._embedded(input_ids_BT, position_ids_BPT)
        if self.enable_recompute and self.training:
            # With frozen embeddings (LoRA) recompute would otherwise see no input that needs a gradient.
            x_BTH.stop_gradient = False
        self.balance_losses = []
        for i, (layer, attention_fn) in enumerate(zip(self.layers, attention_fns, strict=True)):
            watched = self.balance is not None and self.training and self.config.is_sparse(i)
            step = partial(_with_balance_loss, layer) if watched else layer
            run = partial(recompute, step) if self.enable_recompute and self.training else step
            x_BTH = run(x_BTH, rotate, attention_fn)
            if watched:
                x_BTH, loss = x_BTH
                self.balance_losses.append(loss)
        return self.shares.whole(self.norm(x_BTH))

    def before_last(
        self, input_ids_BT: Tensor, position_ids_BPT: Tensor, attention_fns: Sequence[AttentionFn]
    ) -> Tensor:
        """Hidden states [B, T, H] that the last block gets."""
        x_BTH, rotate = self._embedded(input_ids_BT, position_ids_BPT)
        for layer, attention_fn in zip(list(self.layers)[:-1], attention_fns[:-1], strict=True):
            x_BTH = layer(x_BTH, rotate, attention_fn)
        return x_BTH

    def keep(self, x_BTH: Tensor, position_ids_BPT: Tensor, attention_fn: AttentionFn) -> None:
        """Has an attention function keep what a cache needs of the last block, for hidden states of `before_last`."""
        self.layers[-1].keep(x_BTH, self.positions.rotation(position_ids_BPT), attention_fn)

    def last(self, x_BTH: Tensor, position_ids_BPT: Tensor, attention_fn: AttentionFn) -> Tensor:
        """Hidden states [B, T, H] behind the last block and the norm, of those of `before_last`."""
        return self.norm(self.layers[-1](x_BTH, self.positions.rotation(position_ids_BPT), attention_fn))

    def _embedded(self, input_ids_BT: Tensor, position_ids_BPT: Tensor) -> tuple[Tensor, Rotate]:
        own_positions = self.shares.own(position_ids_BPT)
        x_BTH = self.dropout(self.positions.embed(self.embed_tokens(input_ids_BT), own_positions))
        return x_BTH, self.positions.rotation(position_ids_BPT)


def _with_balance_loss(layer: Block, *inputs: Any) -> tuple[Tensor, Tensor]:
    """A block's output and its router's loss: given back, because recompute runs a block without a graph first."""
    return layer(*inputs), layer.mlp.gate.balance_loss


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
        self.ranks, self.n_rep, self.value_dim = Ranks(config), config.queries_per_kv, config.value_dim
        self.balance: Balance | None = None
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
        labels = None if labels is None else shares.even(labels, padding=-1)
        with self._counted(attention_mask, position_ids, labels):
            hidden_BTH = self.model(input_ids, position_ids, [attention_fn] * self.config.num_hidden_layers)
        if labels is None:
            return self.logits(shares.real(hidden_BTH, tokens))
        # The head is the largest matmul of a small model: run it on the trained tokens only.
        trained_M = paddle.nonzero(labels.flatten() >= 0).flatten()
        hidden_MH = paddle.index_select(hidden_BTH.flatten(0, 1), trained_M)
        losses_M = self._losses(hidden_MH, labels.flatten()[trained_M], label_smoothing)
        if self.model.balance_losses:
            losses_M = losses_M + sum(self.model.balance_losses) / max(losses_M.shape[0], 1)
        return losses_M if reduction == "none" else losses_M.sum() / max(losses_M.shape[0], 1)

    def _counted(self, attention_mask: Tensor, position_ids: Tensor, labels: Tensor | None) -> AbstractContextManager:
        """Within it, routers count the tokens of a training step, where somebody asked for it."""
        if self.balance is None or labels is None or not self.training:
            return nullcontext()
        return self.balance.batch(attention_mask, position_ids, labels)

    def _losses(self, hidden_MH: Tensor, labels_M: Tensor, smoothing: float) -> Tensor:
        """[M] float32; of more tokens than a chunk has, the logits never exist together."""
        if not hidden_MH.shape[0]:  # no tensor without elements survives a PyLayer's backward pass
            return self._own_logits(hidden_MH).astype("float32").sum(axis=1)
        target, tied, weight = self._target(smoothing), self.lm_head is None, self._head_weight
        dtype = compute_dtype(weight)
        if hidden_MH.shape[0] <= target.chunk:
            return smoothed_cross_entropy(self._own_logits(hidden_MH), labels_M, target)
        if tied or is_plain(self.lm_head):
            head = Head(weight, None if tied else self.lm_head.bias, tied, dtype)
            return chunked_losses(self.ranks.copy(hidden_MH), head, labels_M, target)
        return recomputed_losses(self._own_logits, hidden_MH, labels_M, target)  # an adapter stands in the head

    @property
    def _head_weight(self) -> Tensor:
        """[H, W], or [W, H] of the word embedding."""
        return self.model.embed_tokens.weight if self.lm_head is None else self.lm_head.weight

    def _target(self, smoothing: float = 0.0) -> Target:
        width = self._head_weight.shape[0 if self.lm_head is None else 1]
        return Target(smoothing, self.config.vocab_size, self.ranks, width)

    def log_probs(self, hidden_MH: Tensor, ids_MX: Tensor) -> tuple[Tensor, Tensor]:
        """How likely some tokens are behind hidden states; logits of a chunk of them exist at once, without gradient.

        Args:
            hidden_MH: M of them, one or more.
            ids_MX: [M, X] int64.

        Returns:
            Natural logarithms [M, X] float32 of their probabilities, and the likeliest token [M] int64 of all: the
            same on every rank.
        """
        target, found = self._target(), []
        for some in even_chunks(hidden_MH.shape[0], target.chunk):
            part = slice(some.start, some.stop)
            found.append(log_probs(self._own_logits(hidden_MH[part]), ids_MX[part], target))
        return tuple(paddle.concat(parts) for parts in zip(*found, strict=True))

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
        attention_fns = filling(self.config, attention, mask, self.n_rep)
        x_BTH = self.model.before_last(input_ids, position_ids, attention_fns)
        self.model.keep(x_BTH, position_ids, attention_fns[-1])
        return filled(attention_fns, key_bias(attention_mask))

    def begin(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, prefix_length: Tensor
    ) -> tuple[Prefix, Tensor, list[Tensor]]:
        """What `prefill` of all columns but the last and a `decode` of that one give, in one reading of the weights.

        Args: as in `forward`, of two columns or more; no other column sees the last one.

        Returns:
            The prefix, logits [B, 1, V] and the tails of one beam.
        """
        columns = input_ids.shape[1] - 1
        attention, mask = self._attention(derived_rows(attention_mask, prefix_length.clip(max=columns)))
        attention_fns = filling(self.config, attention, mask, self.n_rep)
        x_BTH = self.model.before_last(input_ids, position_ids, attention_fns)
        # In the last block all columns have keys and values, and only one goes on from there.
        self.model.keep(x_BTH[:, :-1], position_ids[:, :, :-1], attention_fns[-1])
        prefix = filled(attention_fns, key_bias(attention_mask[:, :-1]))
        del attention_fns  # so that one layer of the cache at a time exists twice
        prefix, tails = divided(prefix, columns)
        newest = reading(prefix, tails)[-1]
        logits_B1V = self.logits(self.model.last(x_BTH[:, -1:], position_ids[:, :, -1:], newest))
        return prefix, logits_B1V, [*tails[: -len(newest.tails)], *newest.tails]

    def read(
        self, input_ids: Tensor, position_ids: Tensor, visible_rows: Tensor, prefix: Prefix | None = None
    ) -> Tensor:
        """Hidden states [B, T, H] of rows that continue one prefix, or begin; for evaluation.

        Args:
            input_ids: [B, T]. position_ids: [B, P, T].
            visible_rows: [B, 2, T] int32, which of these T queries see each column (glm/model/visibility.py).
            prefix: of one row without padding (`prefill`), which every row goes on from.
        """
        if prefix is None:
            attention, mask = self._attention(visible_rows)
            attention_fns = [attention(mask, self.n_rep)] * len(self.model.layers)
        else:
            heads = self.config.num_attention_heads // self.ranks.degree
            attention_fns = going_on(prefix, visible_rows, self.n_rep, heads)
        return self.model(input_ids, position_ids, attention_fns)

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
        attention_fns = reading(prefix, tails)
        logits_BGV = self.logits(self.model(input_ids_BG, position_ids_BPG, attention_fns))
        return logits_BGV, [tail for attention_fn in attention_fns for tail in attention_fn.tails]

    def _attention(self, visible_rows: Tensor) -> tuple[type, Any]:
        """The attention class of this device, and what is seen in its form."""
        dtype = compute_dtype(self.model.embed_tokens.weight)
        attention = attention_class(dtype, self.config.head_dim, self.n_rep, visible_rows, self.value_dim)
        return attention, attention.mask(visible_rows, self.n_rep, dtype)

    def _attention_dropout(self) -> AttentionDropout | None:
        """Dropout of attention weights, whose heads each rank has for itself."""
        rate = self.config.attention_dropout if self.training else 0.0
        return AttentionDropout(rate, self.ranks.own_random_numbers) if rate else None

    def get_input_embeddings(self) -> nn.Embedding:
        return self.model.embed_tokens
