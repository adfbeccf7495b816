"""How evenly experts are loaded in training, and two ways to even it out; both are off unless they are asked for.

Without a loss (arXiv:2408.15664, 3): after a step the bias of an expert that had fewer tokens than the mean rises by a
rate, that of the others falls. With one (DeepSeek-V3, arXiv:2412.19437, 2.1.2): for every sequence Σ f·P, where f is
the share of tokens that chose an expert, 1 for all where they are even, and P its mean share of the scores.

Padding counts in neither. A block that is recomputed sees its tokens twice, and counts them once: its second run is in
the backward pass, when the batch is closed. Shapes: M = B·T tokens, S sequences, A experts, J of them a token.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import paddle
from paddle import Tensor, nn

from glm.model.experts import Router


class Balance:
    """Watches the routers of a model.

    Args:
        model: a `GLMForCausalLM`, in whose training steps they are watched from now on.
        loss_weight: of the loss; 0: none.

    Attributes:
        loads: [A] float32 for each router, tokens since the last `move_biases`, of this process.
    """

    def __init__(self, model: nn.Layer, loss_weight: float = 0.0):
        self.routers = [layer for layer in model.sublayers() if isinstance(layer, Router)]
        self.loss_weight, self._open = loss_weight, False
        self.loads = [paddle.zeros_like(router.e_score_correction_bias) for router in self.routers]
        self._sequence_M = self._real_M = self._weight_M = paddle.zeros([0])
        self._sequences = 0
        for index, router in enumerate(self.routers):
            router.watch = lambda scores, chosen, index=index: self._observe(index, scores, chosen)
        model.balance = model.model.balance = self

    @contextmanager
    def batch(self, mask_BT: Tensor, position_ids_BPT: Tensor, labels_BT: Tensor) -> Iterator[None]:
        """A training step's forward pass: its tokens are counted.

        Args:
            mask_BT: 1 for real tokens.
            position_ids_BPT: 0 where a sequence begins; a row that is a pack has several.
            labels_BT: of trained tokens not negative; a sequence weighs in the loss as many as it has.
        """
        self._real_M = mask_BT.flatten().astype("bool")
        begins_M = (position_ids_BPT[:, 0].flatten() == 0) & self._real_M
        self._sequence_M = (begins_M.astype("int64").cumsum() - 1).clip(min=0)
        self._sequences = max(1, int(begins_M.astype("int64").sum()))
        if self.loss_weight:
            lengths_S = self._per_sequence(self._real_M.astype("float32"))
            trained_S = self._per_sequence((labels_BT.flatten() >= 0).astype("float32"))
            weight_S = trained_S / lengths_S.clip(min=1)
            self._weight_M = weight_S[self._sequence_M] * self._real_M.astype("float32")
            self._lengths_S = lengths_S.clip(min=1)
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _per_sequence(self, x_M: Tensor) -> Tensor:
        """[M] → [S], sums over the real tokens of each."""
        real_M = x_M * self._real_M.astype("float32")
        return paddle.bincount(self._sequence_M, real_M, self._sequences).astype("float32")

    def _observe(self, index: int, scores_MA: Tensor, chosen_MJ: Tensor) -> Tensor:
        """What a router did: counted, and its part of the loss, times the trained tokens: 0-D float32."""
        experts, top_k = scores_MA.shape[1], chosen_MJ.shape[1]
        with paddle.no_grad():
            real_Z = self._real_M.astype("float32").repeat_interleave(top_k)
            if self._open:
                self.loads[index] += paddle.bincount(chosen_MJ.flatten(), real_Z, experts).astype("float32")
            if not self.loss_weight:
                return paddle.zeros([])
            pair_Z = (self._sequence_M.unsqueeze(1) * experts + chosen_MJ).flatten()
            counts_SA = paddle.bincount(pair_Z, real_Z, self._sequences * experts).reshape([-1, experts])
            f_SA = counts_SA.astype("float32") * experts / (top_k * self._lengths_S.unsqueeze(1))
            factor_MA = f_SA[self._sequence_M] * self._weight_M.unsqueeze(1)
        share_MA = scores_MA / scores_MA.sum(axis=1, keepdim=True)
        return (factor_MA * share_MA).sum() * self.loss_weight

    def move_biases(self, rate: float, loads: Sequence[Tensor] | None = None) -> None:
        """Ends a step: every bias moves by the rate, and counting begins anew.

        Args:
            loads: of all processes together; this one's unless given.
        """
        for router, load_A in zip(self.routers, loads or self.loads, strict=True):
            bias_A = router.e_score_correction_bias
            bias_A.set_value(bias_A + rate * paddle.sign(load_A.mean() - load_A))
        self.loads = [paddle.zeros_like(load) for load in self.loads]
