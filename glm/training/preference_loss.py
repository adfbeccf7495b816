"""Losses of preference tuning, of the log-probabilities of a better and a worse answer to one prompt.

πc, πr are the policy's log-probabilities of the chosen and the rejected answer, ρc, ρr the reference's, and
x = (πc - πr) - (ρc - ρr). Sums over an answer's tokens, unless the loss takes means.

    sigmoid    -(1 - ε) ln σ(βx) - ε ln σ(-βx)            Rafailov et al., arXiv:2305.18290, (7); ε: Mitchell's cDPO
    hinge      max(0, 1 - βx)                             Liu et al., arXiv:2309.06657, 3.2
    ipo        (x - 1 / 2β)², means                       Azar et al., arXiv:2310.12036, (17)
    simpo      -ln σ(β(πc - πr) - γ), means               Meng et al., arXiv:2405.14734, (6)
    orpo       -πc - β ln σ(odds(πc) - odds(πr)), means   Hong et al., arXiv:2403.07691, (6) and (7)
               with odds(π) = π - ln(1 - exp π)
    kto_pair   half of 1 - σ(β(πc - ρc - KLr)) + 1 - σ(β(KLc - πr + ρr)), KL = max(0, mean over the batch of π - ρ)
                                                          Ethayarajh et al., arXiv:2402.01306, as TRL had it for pairs

Shapes: B pairs, M target tokens of a batch.
"""

from collections.abc import Callable
from dataclasses import dataclass

import paddle
import paddle.nn.functional as F
from paddle import Tensor

from glm.errors import UsageError

_LIKELIEST = -1e-6  # mean log-probability of the likeliest answer whose odds are told apart

# Figures of a pair besides the parts of its loss.
FIGURES = (
    *("rewards/chosen", "rewards/rejected", "rewards/margins", "rewards/accuracies"),
    *("logps/chosen", "logps/rejected", "logps/accuracies"),
)


@dataclass(frozen=True)
class Answers:
    """Log-probabilities of the answers of a batch.

    Attributes:
        sums: [B, 2] float32, over the tokens of the chosen and of the rejected answer.
        counts: [B, 2] float32, how many they are.
    """

    sums: Tensor
    counts: Tensor

    @property
    def means(self) -> Tensor:
        return self.sums / self.counts


def summed_answers(losses_M: Tensor, answer_of_M: Tensor, pairs: int) -> Answers:
    """The answers of a batch of their tokens.

    Args:
        losses_M: float32, negative log-probability of each token.
        answer_of_M: int64, the answer that it belongs to: 2·b of the chosen one of a pair b, 2·b + 1 of the rejected.
        pairs: B.
    """
    own_AM = (paddle.arange(2 * pairs, dtype="int64").unsqueeze(1) == answer_of_M).astype("float32")
    with paddle.amp.auto_cast(enable=False):  # a sum of thousands of tokens, in float32
        sums_A = -paddle.matmul(own_AM, losses_M.astype("float32"))
    return Answers(sums_A.reshape([pairs, 2]), own_AM.sum(axis=1).reshape([pairs, 2]))


@dataclass(frozen=True)
class PreferenceLoss:
    """A loss of pairs, and what is logged of them.

    Args:
        kind: a key of `KINDS`.
        beta: β > 0; of ipo the paper's τ, of orpo its λ.
        simpo_gamma: γ, the margin of simpo.
        label_smoothing: ε of sigmoid, 0 to 0.5: how likely the preference of a pair is the wrong way round.
        sft_ratio: adds so much of the chosen answer's mean negative log-probability.

    Raises:
        UsageError: a number out of its range, or label smoothing for a loss that has none.
    """

    kind: str = "sigmoid"
    beta: float = 0.1
    simpo_gamma: float = 0.5
    label_smoothing: float = 0.0
    sft_ratio: float = 0.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise UsageError(f"loss_type is {self.kind}, and must be one of {', '.join(KINDS)}")
        if not self.beta > 0:
            raise UsageError(f"beta is {self.beta}, and must be above 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise UsageError(f"dpo_label_smoothing is {self.label_smoothing}, and must be at least 0 and below 0.5")
        if self.label_smoothing and self.kind != "sigmoid":
            raise UsageError(
                f"dpo_label_smoothing is {self.label_smoothing}, and loss_type {self.kind} has none: leave it out, or "
                "take sigmoid"
            )
        for name, value in (("simpo_gamma", self.simpo_gamma), ("sft_loss_ratio", self.sft_ratio)):
            if value < 0:
                raise UsageError(f"{name} is {value}, and must be at least 0")

    @property
    def has_reference(self) -> bool:
        """Whether it compares the policy with what training started from."""
        return KINDS[self.kind].reference

    @property
    def takes_means(self) -> bool:
        """Whether an answer counts by its mean log-probability instead of the sum."""
        return KINDS[self.kind].means

    @property
    def figures(self) -> tuple[str, ...]:
        """Names of what `__call__` gives besides the loss."""
        parts = (f"{self.kind}_loss", *(["odds_ratio_loss"] if self.kind == "orpo" else []))
        return (*parts, *(["sft_loss"] if self.sft_ratio else []), *FIGURES)

    def __call__(self, policy: Answers, reference: Tensor | None) -> dict[str, Tensor]:
        """Of each pair [B] its `loss`, with a gradient, and every one of `figures`, without.

        Args:
            policy: of the model that is trained.
            reference: [B, 2] sums of the reference; None for a loss without one.
        """
        answers_B2 = policy.means if self.takes_means else policy.sums
        if reference is None:
            compared_B2 = paddle.zeros_like(answers_B2)
        else:
            compared_B2 = reference / policy.counts if self.takes_means else reference
        parts = KINDS[self.kind].parts(self, answers_B2, compared_B2)
        loss_B = parts[f"{self.kind}_loss"]
        if self.sft_ratio:
            parts["sft_loss"] = -policy.means[:, 0]
            loss_B = loss_B + self.sft_ratio * parts["sft_loss"]
        figures = parts | self._compared(answers_B2, compared_B2)
        return {"loss": loss_B} | {name: figures[name].detach() for name in self.figures}

    def _compared(self, answers_B2: Tensor, compared_B2: Tensor) -> dict[str, Tensor]:
        """`FIGURES`; an accuracy is 1 where the chosen answer is above the rejected one."""
        rewards_B2 = self.beta * (answers_B2 - compared_B2)
        figures = {}
        for name, (chosen_B, rejected_B) in {
            "rewards": rewards_B2.unbind(axis=1),
            "logps": answers_B2.unbind(axis=1),
        }.items():
            figures |= {f"{name}/chosen": chosen_B, f"{name}/rejected": rejected_B}
            figures |= {f"{name}/margins": chosen_B - rejected_B}
            figures |= {f"{name}/accuracies": (chosen_B > rejected_B).astype(chosen_B.dtype)}
        return figures


def _margins(policy_B2: Tensor, reference_B2: Tensor) -> Tensor:
    """x [B]."""
    ratios_B2 = policy_B2 - reference_B2
    return ratios_B2[:, 0] - ratios_B2[:, 1]


def _sigmoid(loss: PreferenceLoss, policy_B2: Tensor, reference_B2: Tensor) -> dict[str, Tensor]:
    z_B = loss.beta * _margins(policy_B2, reference_B2)
    smoothing = loss.label_smoothing
    return {"sigmoid_loss": -(1.0 - smoothing) * F.log_sigmoid(z_B) - smoothing * F.log_sigmoid(-z_B)}


def _hinge(loss: PreferenceLoss, policy_B2: Tensor, reference_B2: Tensor) -> dict[str, Tensor]:
    return {"hinge_loss": F.relu(1.0 - loss.beta * _margins(policy_B2, reference_B2))}


def _ipo(loss: PreferenceLoss, policy_B2: Tensor, reference_B2: Tensor) -> dict[str, Tensor]:
    return {"ipo_loss": (_margins(policy_B2, reference_B2) - 0.5 / loss.beta).square()}


def _simpo(loss: PreferenceLoss, policy_B2: Tensor, reference_B2: Tensor) -> dict[str, Tensor]:
    return {"simpo_loss": -F.log_sigmoid(loss.beta * _margins(policy_B2, reference_B2) - loss.simpo_gamma)}


def _orpo(loss: PreferenceLoss, policy_B2: Tensor, reference_B2: Tensor) -> dict[str, Tensor]:
    surest_B2 = policy_B2.clip(max=_LIKELIEST)
    odds_B2 = surest_B2 - (-surest_B2.expm1()).log()
    ratio_B = -F.log_sigmoid(odds_B2[:, 0] - odds_B2[:, 1])
    return {"orpo_loss": -policy_B2[:, 0] + loss.beta * ratio_B, "odds_ratio_loss": ratio_B}


def _kto_pair(loss: PreferenceLoss, policy_B2: Tensor, reference_B2: Tensor) -> dict[str, Tensor]:
    ratios_B2 = policy_B2 - reference_B2
    kl_2 = ratios_B2.mean(axis=0).clip(min=0.0)
    # The divergence of one half is estimated with the other half.
    chosen_B = F.sigmoid(loss.beta * (ratios_B2[:, 0] - kl_2[1]))
    rejected_B = F.sigmoid(loss.beta * (kl_2[0] - ratios_B2[:, 1]))
    return {"kto_pair_loss": 1.0 - 0.5 * (chosen_B + rejected_B)}


@dataclass(frozen=True)
class _Kind:
    """A loss by its name.

    Attributes:
        parts: (loss, policy [B, 2], reference [B, 2]) → parts [B] by their names.
        reference, means: see `PreferenceLoss`.
    """

    parts: Callable[[PreferenceLoss, Tensor, Tensor], dict[str, Tensor]]
    reference: bool = True
    means: bool = False


KINDS = {
    "sigmoid": _Kind(_sigmoid),
    "hinge": _Kind(_hinge),
    "ipo": _Kind(_ipo, means=True),
    "simpo": _Kind(_simpo, reference=False, means=True),
    "orpo": _Kind(_orpo, reference=False, means=True),
    "kto_pair": _Kind(_kto_pair),
}
