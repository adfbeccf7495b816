"""Losses of preference tuning: closed forms in numpy, gradients by finite differences, sums over answers."""

from dataclasses import fields

import numpy as np
import paddle
import pytest

from glm.errors import UsageError
from glm.training.preference_flags import PreferenceArguments
from glm.training.preference_loss import FIGURES, KINDS, Answers, PreferenceLoss, summed_answers

COUNTS = np.array([[3.0, 5.0], [2.0, 2.0], [7.0, 1.0], [4.0, 9.0]])
POLICY = -np.array([[4.1, 9.7], [6.0, 2.5], [20.3, 1.2], [3.3, 30.0]])
REFERENCE = -np.array([[5.0, 8.0], [5.5, 2.7], [19.0, 1.9], [4.0, 28.0]])
SETTINGS = {
    **{kind: {} for kind in KINDS},
    "smoothed": {"kind": "sigmoid", "label_smoothing": 0.2},
    "beta": {"kind": "sigmoid", "beta": 0.7},
    "beta of ipo": {"kind": "ipo", "beta": 0.7},
    "beta of orpo": {"kind": "orpo", "beta": 0.7},
    "gamma": {"kind": "simpo", "simpo_gamma": 1.5, "beta": 2.0},
    "SFT": {"kind": "sigmoid", "sft_ratio": 0.3},
    "SFT of means": {"kind": "simpo", "sft_ratio": 0.3},
}


def loss_of(name: str) -> PreferenceLoss:
    return PreferenceLoss(**{"kind": name} | SETTINGS[name])


def found(loss: PreferenceLoss, policy: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    answers = Answers(paddle.to_tensor(policy), paddle.to_tensor(COUNTS[: len(policy)]))
    given = paddle.to_tensor(reference) if loss.has_reference else None
    return {name: value.numpy() for name, value in loss(answers, given).items()}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def closed(loss: PreferenceLoss, policy: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Pair by pair, as the papers write it."""
    c, r = np.array(policy).T
    rc, rr = np.array(reference).T
    n, m = COUNTS[: len(policy)].T
    beta = loss.beta
    if loss.kind == "sigmoid":
        p = sigmoid(beta * np.log(np.exp(c - rc) / np.exp(r - rr)))
        value = -(1 - loss.label_smoothing) * np.log(p) - loss.label_smoothing * np.log(1 - p)
    elif loss.kind == "hinge":
        value = np.maximum(0, 1 - beta * (c - rc - r + rr))
    elif loss.kind == "ipo":
        value = ((c - rc) / n - (r - rr) / m - 1 / (2 * beta)) ** 2
    elif loss.kind == "simpo":
        value = -np.log(sigmoid(beta / n * c - beta / m * r - loss.simpo_gamma))
    elif loss.kind == "orpo":
        better, worse = np.exp(c / n), np.exp(r / m)
        ratio = (better / (1 - better)) / (worse / (1 - worse))
        value = -c / n - beta * np.log(sigmoid(np.log(ratio)))
    else:
        kl_better, kl_worse = max(0, np.mean(c - rc)), max(0, np.mean(r - rr))
        halves = 1 - sigmoid(beta * (c - rc - kl_worse)), 1 - sigmoid(beta * (kl_better - (r - rr)))
        value = (halves[0] + halves[1]) / 2
    return value - loss.sft_ratio * c / n


@pytest.mark.parametrize("name", SETTINGS)
def test_closed_forms(name):
    loss = loss_of(name)
    assert found(loss, POLICY, REFERENCE)["loss"] == pytest.approx(closed(loss, POLICY, REFERENCE), rel=1e-12)


@pytest.mark.parametrize("name", SETTINGS)
def test_gradients_are_finite_differences(name):
    loss, step = loss_of(name), 1e-6
    sums = paddle.to_tensor(POLICY, stop_gradient=False)
    given = paddle.to_tensor(REFERENCE) if loss.has_reference else None
    loss(Answers(sums, paddle.to_tensor(COUNTS)), given)["loss"].sum().backward()
    for place in np.ndindex(*POLICY.shape):
        moved = [POLICY.copy(), POLICY.copy()]
        moved[0][place] += step
        moved[1][place] -= step
        up, down = (closed(loss, policy, REFERENCE).sum() for policy in moved)
        assert sums.grad.numpy()[place] == pytest.approx((up - down) / (2 * step), rel=1e-5, abs=1e-8), place


@pytest.mark.parametrize(
    ("kind", "at_the_start"),
    [("sigmoid", np.log(2)), ("hinge", 1.0), ("ipo", 25.0), ("kto_pair", 0.5)],
)
def test_where_policy_and_reference_agree(kind, at_the_start):
    """The first step of every run with a reference."""
    values = found(PreferenceLoss(kind), REFERENCE, REFERENCE)
    assert values["loss"] == pytest.approx(np.full(4, at_the_start), rel=1e-12)
    for name in ("chosen", "rejected", "margins", "accuracies"):
        assert not values[f"rewards/{name}"].any()


def test_figures():
    values = found(PreferenceLoss("sigmoid", beta=0.5), POLICY, REFERENCE)
    rewards = 0.5 * (POLICY - REFERENCE)
    assert values["rewards/chosen"] == pytest.approx(rewards[:, 0])
    assert values["rewards/rejected"] == pytest.approx(rewards[:, 1])
    assert values["rewards/margins"] == pytest.approx(rewards[:, 0] - rewards[:, 1])
    assert values["rewards/accuracies"].tolist() == [1, 0, 0, 1]
    assert values["logps/chosen"] == pytest.approx(POLICY[:, 0])
    assert values["logps/rejected"] == pytest.approx(POLICY[:, 1])
    assert values["logps/accuracies"].tolist() == [1, 0, 0, 1]
    assert set(values) == {"loss", "sigmoid_loss", *FIGURES}


def test_figures_of_means():
    values = found(PreferenceLoss("simpo", beta=2.0), POLICY, REFERENCE)
    means = POLICY / COUNTS
    assert values["logps/chosen"] == pytest.approx(means[:, 0])
    assert values["rewards/rejected"] == pytest.approx(2.0 * means[:, 1])
    assert values["rewards/accuracies"].tolist() == [1, 0, 0, 1] and values["logps/accuracies"].tolist() == [1, 0, 0, 1]


def test_parts():
    values = found(PreferenceLoss("orpo", beta=0.4, sft_ratio=0.1), POLICY, REFERENCE)
    sft = -POLICY[:, 0] / COUNTS[:, 0]
    assert values["sft_loss"] == pytest.approx(sft)
    assert values["orpo_loss"] == pytest.approx(sft + 0.4 * values["odds_ratio_loss"])
    assert values["loss"] == pytest.approx(values["orpo_loss"] + 0.1 * sft)


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_answers_stay_finite(kind):
    """An answer that is certain, and one that never comes, in float32."""
    loss = PreferenceLoss(kind)
    sums = paddle.to_tensor(np.array([[0.0, -5000.0], [-5000.0, 0.0]], "float32"), stop_gradient=False)
    reference = paddle.zeros([2, 2]) if loss.has_reference else None
    value = loss(Answers(sums, paddle.to_tensor([[4.0, 4.0], [4.0, 4.0]])), reference)["loss"]
    value.sum().backward()
    assert np.isfinite(value.numpy()).all() and np.isfinite(sums.grad.numpy()).all()


def test_answers_are_added_up():
    losses = paddle.to_tensor(np.array([1.0, 2, 4, 8, 16, 32], "float32"), stop_gradient=False)
    answers = summed_answers(losses, paddle.to_tensor([0, 0, 1, 2, 3, 3]), pairs=2)
    assert answers.sums.tolist() == [[-3, -4], [-8, -48]] and answers.counts.tolist() == [[2, 1], [1, 2]]
    assert answers.means.tolist() == [[-1.5, -4], [-8, -24]]
    (answers.sums * paddle.to_tensor([[1.0, 2], [3, 4]])).sum().backward()
    assert losses.grad.tolist() == [-1, -1, -2, -3, -4, -4]


def test_the_flag_offers_every_loss():
    """--help is shown without the framework that the losses need."""
    [choices] = [each.metadata["choices"] for each in fields(PreferenceArguments) if each.name == "loss_type"]
    assert choices == list(KINDS)


WRONG = {
    "kind": ({"kind": "dpo"}, "loss_type is dpo, and must be one of sigmoid, hinge, ipo, simpo, orpo, kto_pair"),
    "beta": ({"beta": 0.0}, r"beta is 0.0, and must be above 0"),
    "smoothing": ({"label_smoothing": 0.5}, "dpo_label_smoothing is 0.5, and must be at least 0 and below 0.5"),
    "smoothing of ipo": ({"kind": "ipo", "label_smoothing": 0.1}, "dpo_label_smoothing is 0.1, and loss_type ipo has"),
    "gamma": ({"kind": "simpo", "simpo_gamma": -1.0}, "simpo_gamma is -1.0, and must be at least 0"),
    "ratio": ({"sft_ratio": -0.1}, "sft_loss_ratio is -0.1, and must be at least 0"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_refused(name):
    settings, message = WRONG[name]
    with pytest.raises(UsageError, match=message):
        PreferenceLoss(**settings)
