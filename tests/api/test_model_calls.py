"""model(ids) and model(**inputs): what is derived of the ids is what the original code makes of them."""

import fixture_files
import numpy as np
import paddle
import pytest
from paddlenlp.transformers import GLMTokenizer as TheirTokenizer
from paddlenlp_reference import load_ours, reference_model
from tiny_chat import KINDS, chat_model, tokenizer_of
from tiny_glm import relative_error, tiny_model

from glm import AutoModel, AutoTokenizer, GLMForCausalLM
from glm.errors import UsageError

BOUND = 1e-5
BLANKS = ["在已知[gMASK]", "在[MASK]前提下，问题"]


@pytest.fixture(scope="module")
def theirs(tokenizer):
    return reference_model()


@pytest.fixture(scope="module")
def ours(theirs, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paddlenlp")
    model = load_ours(theirs, folder)
    tokenizer.save_pretrained(folder)  # the directory says which of its tokens are blanks
    return model


def blank_inputs(tokenizer, targets=None, tensors=True):
    found = tokenizer(BLANKS, padding=True, return_tensors="np")
    found = tokenizer.build_inputs_for_generation(found, max_gen_length=6, targets=targets)
    return {name: paddle.to_tensor(np.array(value)) if tensors else value for name, value in found.items()}


def test_glm_2021_from_ids_alone(theirs, ours, tokenizer):
    """Against PaddleNLP's model with the inputs of PaddleNLP's tokenizer."""
    oracle = TheirTokenizer.from_pretrained("data/glm-tiny-chinese")
    given = blank_inputs(oracle, ["在已知", "a"])
    columns = given["input_ids"].shape[1]
    position, mask = given["position_ids"], given["attention_mask"]
    wanted = theirs(given["input_ids"], position[:, :, :columns], mask[:, :, :columns, :columns])[0].numpy()
    real = given["loss_mask"].numpy() > 0
    mine = blank_inputs(tokenizer, ["在已知", "a"])
    mine = {name: value for name, value in mine.items() if name not in ("loss_mask", "label_ids")}
    assert relative_error(ours(**mine).numpy()[real], wanted[real]) < BOUND
    # PaddleNLP pads between source and blank, which no mask of two axes tells of a row's ids: a row on its own.
    row = oracle.build_inputs_for_generation(oracle(BLANKS[1:], return_tensors="np"), 6, targets=["a"])
    wanted = theirs(*(paddle.to_tensor(np.array(row[n])) for n in ("input_ids", "position_ids", "attention_mask")))[0]
    for ids in (paddle.to_tensor(row["input_ids"]), row["input_ids"], row["input_ids"].tolist(), row["input_ids"][0]):
        assert relative_error(ours(ids).numpy(), wanted.numpy()) < BOUND


def test_the_loss_is_paddlenlps(theirs, ours, tokenizer):
    """Labels are not shifted; loss_mask says what is trained."""
    given = blank_inputs(tokenizer, ["在已知", "a"])
    labels, mask = given.pop("label_ids"), given["loss_mask"]
    wanted = theirs(**given | {"loss_mask": mask.astype("float32")}, labels=labels)[0]
    assert relative_error(ours(**given, labels=labels), wanted) < BOUND
    masked = paddle.where(mask > 0, labels, paddle.full_like(labels, -100))
    del given["loss_mask"]
    found = ours(**given, labels=masked, return_dict=True)
    assert relative_error(found.loss, wanted) < BOUND
    assert np.array_equal(found.logits.numpy(), ours(**given).numpy())


def test_the_loss_of_each_token(ours, tokenizer):
    """Their mean is the loss; a token's is its negative log-probability."""
    given = blank_inputs(tokenizer, ["在已知", "a"])
    del given["loss_mask"]
    labels = given.pop("label_ids")
    labels[0, :] = -100
    losses_M = ours(**given, labels=labels, reduction="none")
    logits = ours(**given)[labels >= 0]
    wanted = paddle.nn.functional.cross_entropy(logits, labels[labels >= 0], reduction="none")
    assert losses_M.shape == [int((labels >= 0).sum())] and losses_M.dtype == paddle.float32
    assert relative_error(losses_M, wanted) < BOUND
    assert float(losses_M.mean()) == float(ours(**given, labels=labels))
    with pytest.raises(UsageError, match="reduction is 'sum', and must be 'mean' or 'none'"):
        ours(**given, labels=labels, reduction="sum")


def test_ids_without_a_blank_are_causal(theirs, ours, tokenizer):
    """As the Hugging Face code of GLM has it; PaddleNLP's own mask is given to it, as its default is no mask at all."""
    ids = tokenizer(["在已知[gMASK]"], return_tensors="pd").input_ids
    size = ids.shape[1]
    wanted = theirs(ids, attention_mask=paddle.tril(paddle.ones([1, 1, size, size])))[0]
    assert relative_error(ours(ids).numpy(), wanted.numpy()) < BOUND


@pytest.mark.parametrize("name", fixture_files.names())
def test_published_logits_from_ids_and_mask(name):
    """The fixtures of transformers and PaddleNLP, padded on the left: their positions and prefixes are derived."""
    fixture = fixture_files.load(name)
    model = GLMForCausalLM.from_pretrained(fixture.directory)
    model.eval()
    case = fixture.case("left_padded")
    found = model(case["input_ids"], case["attention_mask"]).numpy()
    real = case["attention_mask"] == 1
    assert relative_error(found[real], case["logits"][real]) < BOUND


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_tokenizer_gives_goes_in_as_it_is(kind):
    """A row of a padded batch has the logits that it has alone, whichever of its fields are given."""
    model, tokenizer = chat_model(kind), tokenizer_of(kind)
    model.tokenizer = tokenizer
    texts = ["你好呀，在已知", "好"]
    batch = tokenizer(texts, padding=True, return_tensors="pd")
    for number, text in enumerate(texts):
        alone = tokenizer(text, return_tensors="pd")
        wanted = model(alone.input_ids).numpy()[0]
        assert relative_error(model(**alone).numpy()[0], wanted) < BOUND
        assert relative_error(model(**batch).numpy()[number, -len(wanted) :], wanted) < BOUND
        del alone
    short = tokenizer(texts, padding=True, return_tensors="pd", return_position_ids=False)
    assert relative_error(model(**short).numpy()[0], model(**batch).numpy()[0]) < BOUND
    assert model([1, 2, 3]).shape == [1, 3, model.config.vocab_size]


def test_chatglm_knows_its_padding():
    """Without a mask the padding token, which ends no text, is padding."""
    model, tokenizer = chat_model("chatglm"), tokenizer_of("chatglm")
    model.tokenizer = tokenizer
    batch = tokenizer(["你好呀", "好"], padding=True, return_tensors="pd")
    wanted = model(tokenizer("好", return_tensors="pd").input_ids).numpy()[0]
    assert relative_error(model(batch.input_ids).numpy()[1, -len(wanted) :], wanted) < BOUND


def test_the_prefix_matters(ours, tokenizer):
    """So the tests above would see a causal mask, or positions that count on."""
    ids = blank_inputs(tokenizer)["input_ids"][:1]
    wanted = ours(ids).numpy()
    assert relative_error(ours(ids, prefix_length=[0]).numpy(), wanted) > 0.1
    counted = np.array([[np.arange(ids.shape[1]), np.zeros(ids.shape[1])]])
    assert relative_error(ours(ids, position_ids=counted, prefix_length=[ids.shape[1] - 1]).numpy(), wanted) > 0.1


def test_blanks_of_a_model_without_directory(tokenizer):
    model = tiny_model()
    ids = blank_inputs(tokenizer)["input_ids"][1:]  # the longest row, which has no padding
    with pytest.raises(UsageError, match=r"this model does not know which of its tokens are blanks: set model\.token"):
        model(ids)
    given = blank_inputs(tokenizer)
    given = {name: value[1:] for name, value in given.items()}
    wanted = model(**given).numpy()
    model.tokenizer = tokenizer
    assert relative_error(model(ids).numpy(), wanted) < BOUND


def test_token_types_change_nothing():
    model, tokenizer = chat_model("glm4"), tokenizer_of("glm4")
    inputs = tokenizer("你好", "好", return_token_type_ids=True, return_tensors="pd")
    assert (model(**inputs).numpy() == model(inputs.input_ids).numpy()).all()
    neutral = {"use_cache": False, "past_key_values": None, "output_hidden_states": None}
    assert (model(**inputs, **neutral).numpy() == model(inputs.input_ids).numpy()).all()
    labels = [[-100] * (inputs.input_ids.shape[1] - 1) + [5]]
    assert float(model(**inputs, labels=labels)) > 0


def test_the_preset_knows_its_blanks():
    model, tokenizer = AutoModel.from_pretrained("glm-tiny-chinese"), AutoTokenizer.from_pretrained("glm-tiny-chinese")
    assert model(tokenizer("在[gMASK]").input_ids).shape == [1, 4, 384]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": [[1, 2], [3]]}, "input_ids: rows of several lengths make no array; pad them"),
        ({"input_ids": [[0.5]]}, "input_ids holds float64 values, and must hold whole numbers"),
        ({"input_ids": ["a"]}, "input_ids holds <U1 values, and must hold whole numbers"),
        ({"input_ids": []}, r"input_ids have the shape \[1, 0\], and must have \[B, T\]"),
        ({"input_ids": [[[1]]]}, r"input_ids have the shape \[1, 1, 1\], and must have \[B, T\]"),
        (
            {"input_ids": [[1, 2]], "attention_mask": [[1]]},
            r"attention_mask has the shape \[1, 1\], and input_id",
        ),
        (
            {"input_ids": [[1, 2]], "position_ids": np.zeros([1, 3, 2])},
            r"position_ids have the shape \[1, 3, 2\]",
        ),
        ({"input_ids": [[1, 2]], "attention_mask": np.ones([2, 1, 2, 2])}, "which does not fit 1 rows of 2"),
        # Hugging Face's ChatGLM-6B has 1 where a token is hidden.
        (
            {"input_ids": [[1, 2, 3]], "attention_mask": 1 - np.tril(np.ones([1, 1, 3, 3]))},
            "must be 1 where a token is",
        ),
        ({"input_ids": [[1, 2, 3]], "attention_mask": np.eye(3)[None]}, "must be 1 where a token is visible"),
        ({"input_ids": [[1, 768]]}, "input_ids: 768 is not among the model's tokens, which are 0 to 767"),
        ({"input_ids": [[-1, 2]]}, "input_ids: -1 is not among the model's tokens"),
        ({"input_ids": {"input_ids": [[1]]}}, r"input_ids is a dict: unpack it, as model\(\*\*inputs\) does"),
        ({"input_ids": [[1, 2]], "use_cache": True}, "use_cache is not implemented: leave it out"),
        ({"input_ids": [[1, 2]], "past_key_values": [1]}, "past_key_values is not implemented: leave it out"),
        ({"input_ids": [[1, 2]], "atention_mask": [[1, 1]]}, "a model's call has no input 'atention_mask'"),
        ({"input_ids": [[1, 2]], "labels": [5]}, r"labels have the shape \[1, 1\], and input_ids \[1, 2\]"),
        ({"input_ids": [[1, 2]], "labels": [[1, 768]]}, "labels: 768 is not among the model's tokens"),
    ],
)
def test_inputs_that_do_not_fit(given, message):
    model = chat_model("glm4")
    with pytest.raises(UsageError, match=message):
        model(**given)
