"""model.generate(ids, …): PaddleNLP's tokens and scores, the search underneath, and what is refused."""

import fixture_files
import numpy as np
import paddle
import pytest
from paddlenlp.generation import TextIteratorStreamer
from paddlenlp_reference import load_ours, reference_model
from tiny_chat import KINDS
from tiny_glm import make_likely, relative_error

from glm import AutoModel, AutoTokenizer, GenerationConfig, GLMChatModel, GLMForCausalLM, TextStreamer
from glm.errors import UsageError
from glm.generation.search import Prompt, StopTokens

BLANKS = ["在已知[gMASK]", "在[MASK]前提下，问题", "a[gMASK]"]


@pytest.fixture(scope="module")
def theirs(tokenizer):
    """Large weights, and an end token that is likely enough for texts to end early, late and never."""
    model = reference_model(spread=0.6)
    make_likely(model.glm.word_embeddings, model.glm.transformer.final_layernorm, tokenizer.eop_token_id, 12.0)
    return model


@pytest.fixture(scope="module")
def ours(theirs, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("paddlenlp")
    model = load_ours(theirs, folder)
    tokenizer.save_pretrained(folder)
    return model


def inputs(tokenizer, new: int) -> dict:
    given = tokenizer(BLANKS, padding=True, return_tensors="np")
    given = tokenizer.build_inputs_for_generation(given, max_gen_length=new + 1)
    return {name: paddle.to_tensor(np.array(value)) for name, value in given.items()}


@pytest.mark.parametrize(
    "options",
    [
        {"decode_strategy": "greedy_search"},
        {"decode_strategy": "greedy_search", "min_new_tokens": 4},
        {"decode_strategy": "beam_search", "num_beams": 3},
        {"decode_strategy": "beam_search", "num_beams": 3, "length_penalty": 0.7, "num_return_sequences": 2},
        {"decode_strategy": "beam_search", "num_beams": 4, "num_return_sequences": 4, "min_length": 3},
    ],
    ids=str,
)
def test_the_same_call_gives_paddlenlps_answer(theirs, ours, tokenizer, options):
    """The very same arguments, of its own tokenizer's form; max_length counts new tokens in both."""
    call = inputs(tokenizer, 8) | options | {"max_length": 8, "pad_token_id": tokenizer.pad_token_id}
    call["eos_token_id"] = tokenizer.eop_token_id
    wanted, their_scores = theirs.generate(**call)
    found, scores = ours.generate(**call)
    width = wanted.shape[1]
    assert found.numpy()[:, :width].tolist() == wanted.numpy().tolist()
    assert (found.numpy()[:, width:] == tokenizer.pad_token_id).all()
    assert scores.shape == [len(found), 1]
    if "num_beams" in options:
        assert relative_error(scores, their_scores) < 1e-5


def test_the_prompt_can_be_had_too(ours, tokenizer):
    call = inputs(tokenizer, 4) | {"max_new_tokens": 4}
    ids, _ = ours.generate(**call)
    whole, _ = ours.generate(**call, trunc_input=False)
    assert whole.numpy().tolist() == np.concatenate([call["input_ids"].numpy(), ids.numpy()], axis=1).tolist()


def test_a_blank_is_begun_where_the_tokenizer_left_it_out(ours, tokenizer):
    """So what a call gives goes into generate as it is."""
    wanted, _ = ours.generate(**inputs(tokenizer, 6), max_new_tokens=6)
    called = tokenizer(BLANKS, padding=True, return_tensors="pd")
    assert ours.generate(**called, max_new_tokens=6)[0].tolist() == wanted.tolist()
    for number, text in enumerate(BLANKS):
        ids = tokenizer.encode(text)
        for form in (ids, [ids], np.array([ids], dtype="int32"), paddle.to_tensor([ids])):
            alone = ours.generate(form, max_new_tokens=6)[0].tolist()[0]
            assert alone == wanted.tolist()[number][: len(alone)]
    with pytest.raises(UsageError, match=r"prompt 1 has no mask token: write \[gMASK\] where the answer goes"):
        ours.generate(tokenizer.encode("在已知"))


def test_scores_are_means_of_log_probabilities(ours, tokenizer):
    """PaddleNLP's sampling has them; of a greedy text as well here."""
    prompt = tokenizer.build_inputs_for_generation(tokenizer(BLANKS[:1], return_tensors="np"), 1).input_ids
    ids, scores = ours.generate(prompt, max_new_tokens=7)
    text = ids.numpy()[0]
    logits = ours(np.concatenate([prompt[0], text[:-1]])).numpy()[0, prompt.shape[1] - 1 :].astype("float64")
    chosen = logits[np.arange(len(text)), text] - np.log(np.exp(logits).sum(axis=1))
    assert float(scores) == pytest.approx(chosen.mean(), rel=1e-4)


@pytest.mark.parametrize("name", fixture_files.names())
def test_transformers_tokens(name):
    """Of ids and mask alone; of ChatGLM-6B PaddleNLP's."""
    fixture = fixture_files.load(name)
    model, case = GLMForCausalLM.from_pretrained(fixture.directory), fixture.case("prompt")
    options = {"eos_token_id": fixture.settings["stop_token_ids"], "pad_token_id": fixture.settings["pad_token_id"]}
    found, _ = model.generate(
        case["input_ids"],
        attention_mask=case["attention_mask"],
        max_new_tokens=fixture.settings["max_new_tokens"],
        **options,
    )
    wanted = fixture.arrays["greedy.tokens"]
    assert found.tolist() == wanted[:, : found.shape[1]].tolist()


@pytest.fixture(scope="module", params=KINDS)
def pair(request, chat_models):
    return AutoModel.from_pretrained(chat_models[request.param]), AutoTokenizer.from_pretrained(
        chat_models[request.param]
    )


def test_a_batch_is_its_rows(pair):
    model, tokenizer = pair
    texts = ["你好呀，在已知", "好", "a"]
    ids, scores = model.generate(**tokenizer(texts, padding=True, return_tensors="pd"), max_new_tokens=6)
    for number, text in enumerate(texts):
        alone, score = model.generate(**tokenizer(text, return_tensors="np"), max_new_tokens=6)
        assert alone.tolist()[0] == ids.tolist()[number][: alone.shape[1]]
        assert float(score) == pytest.approx(float(scores[number]), rel=1e-4)


def test_sampling(pair):
    model, tokenizer = pair
    prompt = tokenizer("你好", return_tensors="pd")
    drawn = {"do_sample": True, "temperature": 3.0, "top_k": 0, "num_return_sequences": 3, "max_new_tokens": 6}
    ids, scores = model.generate(**prompt, **drawn, seed=1)
    assert ids.shape == [3, 6] and scores.shape == [3, 1]
    assert len({tuple(row) for row in ids.tolist()}) == 3
    again = drawn | {"do_sample": None, "decode_strategy": "sampling"}
    assert model.generate(**prompt, **again, seed=1)[0].tolist() == ids.tolist()
    greedy = model.generate(**prompt, max_new_tokens=6)[0].tolist()
    assert model.generate(**prompt, **drawn | {"top_k": 1})[0].tolist() == greedy * 3
    assert model.generate(**prompt, **drawn | {"top_p": 0})[0].tolist() == greedy * 3  # in both libraries
    assert (
        model.generate(**prompt, decode_strategy="greedy_search", temperature=3.0, max_new_tokens=6)[0].tolist()
        == greedy
    )
    assert model.generate(**prompt, generation_config=GenerationConfig(max_length=6))[0].tolist() == greedy


def test_top_k_is_50_in_sampling(pair):
    """As both libraries have it."""
    model, tokenizer = pair
    prompt, hot = tokenizer("你好", return_tensors="pd"), {"do_sample": True, "temperature": 9.0, "max_new_tokens": 1}
    best = set(np.argsort(-model(**prompt).numpy()[0, -1])[:50].tolist())
    rows = model.generate(**prompt, **hot, num_return_sequences=200)[0].numpy().ravel().tolist()
    assert set(rows) <= best
    assert (
        not set(model.generate(**prompt, **hot, num_return_sequences=200, top_k=0)[0].numpy().ravel().tolist()) <= best
    )


class Steps:
    def __init__(self):
        self.shapes, self.tokens, self.over = [], [], False

    def put(self, value):
        self.shapes.append(list(value.shape))
        self.tokens += value.numpy()[:, 0].tolist()

    def end(self):
        self.over = True


def test_streamers(pair, capsys):
    model, tokenizer = pair
    prompt = tokenizer("你好", return_tensors="pd")
    wanted, score = model.generate(**prompt, max_new_tokens=6)
    steps = Steps()
    found, same = model.generate(**prompt, max_new_tokens=6, streamer=steps)
    assert found.tolist() == wanted.tolist() == [steps.tokens]
    assert (steps.shapes, steps.over, float(same)) == ([[1, 1]] * len(steps.tokens), True, float(score))
    text = tokenizer.decode(wanted, skip_special_tokens=True)[0]
    capsys.readouterr()
    model.generate(**prompt, max_new_tokens=6, streamer=TextStreamer(tokenizer))
    assert capsys.readouterr().out == text + "\n"
    model.generate(**prompt, max_new_tokens=6, streamer=TextStreamer(tokenizer, skip_prompt=True))
    assert capsys.readouterr().out == text + "\n"
    with pytest.raises(UsageError, match="a TextStreamer shows neither the prompt nor special tokens"):
        TextStreamer(tokenizer, skip_special_tokens=False)
    theirs = TextIteratorStreamer(tokenizer, skip_special_tokens=True)
    model.generate(**prompt, max_new_tokens=6, streamer=theirs)
    assert "".join(theirs) == text
    with pytest.raises(UsageError, match="a streamer shows tokens as they come, and num_beams 2 chooses late"):
        model.generate(**prompt, num_beams=2, streamer=steps)
    with pytest.raises(UsageError, match="a TextStreamer shows one text, and the batch has 2"):
        both = tokenizer(["你好", "好"], padding=True, return_tensors="pd")
        model.generate(**both, streamer=TextStreamer(tokenizer))


def test_our_own_objects_go_to_the_search(pair):
    model, tokenizer = pair
    prompt = tokenizer("你好", return_tensors="pd")
    wanted, _ = model.generate(**prompt, max_new_tokens=5, eos_token_id=[], num_beams=2)
    ids = prompt.input_ids
    tensors = model._complete(ids, None, None, None)
    step = paddle.to_tensor([0, 1] if tensors[2].shape[1] == 2 else [1])
    config = GenerationConfig(max_length=5, num_beams=2, gnmt_length=False)
    found = model.generate(Prompt(*tensors, step), config, StopTokens((), 3))
    assert found[0].tolist() == wanted.tolist()
    assert found[1].shape == [1]


def test_mindformers_chat_model(chat_models):
    """Lengths count the prompt, and arrays come back, the prompt in them."""
    model, plain = (cls.from_pretrained(chat_models["chatglm"]) for cls in (GLMChatModel, GLMForCausalLM))
    tokenizer = AutoTokenizer.from_pretrained(chat_models["chatglm"])
    ids = np.array([tokenizer("你好")["input_ids"]], dtype="int32")
    found = model.generate(ids, max_length=9, do_sample=False)
    assert [row.tolist() for row in found] == [[*ids[0].tolist(), *plain.generate(ids, max_length=5)[0].tolist()[0]]]
    assert found[0].dtype == np.int32
    assert model.generate(ids, max_new_tokens=5)[0].tolist() == found[0].tolist()
    end = found[0][5]
    for form in (int(end), np.array([end]), paddle.to_tensor([int(end)])):
        cut = model.generate(ids, max_length=9, eos_token_id=form)[0]
    assert cut.tolist() == found[0][: cut.shape[0]].tolist() and cut[-1] == end and cut.shape[0] < 9
    assert model.generate(ids, max_length=9, trunc_input=False)[0].tolist() == found[0].tolist()
    with pytest.raises(UsageError, match="trunc_input True: the arrays of a GLMChatModel have the prompt in front"):
        model.generate(ids, max_length=9, trunc_input=True)
    for length in ("9", True, 0):
        with pytest.raises(UsageError, match=f"max_length (is )?{length!r}"):
            model.generate(ids, max_length=length)
    with pytest.raises(UsageError, match="max_length 4 has no room for an answer to a prompt of 4 tokens"):
        model.generate(ids, max_length=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_token": 3}, "unknown option 'max_new_token': did you mean max_new_tokens?"),
        ({"top_q": 0.5}, "unknown option 'top_q': did you mean top_"),
        ({"xyz": 0.5}, "unknown option 'xyz'; see docs/python.md"),
        ({"early_stopping": True}, "early_stopping True is not implemented; leave it out, or give False"),
        ({"num_beam_groups": 2}, "num_beam_groups 2 is not implemented; leave it out, or give 1"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5, and must be a whole number"),
        ({"max_new_tokens": True}, "max_new_tokens is True, and must be a whole number"),
        ({"do_sample": 1}, "do_sample is 1, and must be True or False"),
        ({"top_p": "0.7"}, "top_p is '0.7', and must be a number"),
        ({"top_p": 1.5}, "top_p is 1.5, and must be between 0 and 1"),
        ({"max_new_tokens": 0}, "max_length is 0, and must be at least 1"),
        ({"decode_strategy": "best"}, "decode_strategy is 'best', and must be one of greedy_search, sampling, beam_se"),
        ({"decode_strategy": "beam_search"}, "decode_strategy beam_search needs num_beams of at least 2, and it is 1"),
        (
            {"num_return_sequences": 2},
            "num_return_sequences 2 of greedy search would be 2 times the same: use sampl",
        ),
        ({"num_return_sequences": 3, "num_beams": 2}, "num_return_sequences 3 is above num_beams 2"),
        ({"eos_token_id": 10**6}, "token id 1000000 is not among the model's"),
        ({"eos_token_id": "</s>"}, "eos_token_id is '</s>', and must be a token id or several"),
        ({"pad_token_id": "a"}, "pad_token_id is 'a', and must be a token id$"),
        ({"pad_token_id": [1, 2]}, r"pad_token_id is \[1, 2\], and must be a token id$"),
        (
            {"generation_config": {"num_beams": 2}},
            "generation_config is a dict, and must be a glm.Gen",
        ),
        ({"stopping_criteria": ["x"]}, "stopping_criteria are not implemented: eos_token_id takes the ids that end"),
        ({"streamer": 3}, "streamer is a int, and must have put and end, as glm.TextStreamer has"),
        ({"input_ids": [5, 10**6]}, "input_ids: 1000000 is not among the model's tokens, which are 0 to"),
        ({"max_new_tokens": 1000}, "new ones need position .*, and the model ends at 512: ask for fewer"),
    ],
)
def test_what_is_refused(pair, options, message):
    model, tokenizer = pair
    with pytest.raises(UsageError, match=message):
        model.generate(**{**tokenizer("你好", return_tensors="pd"), "attention_mask": None, **options})


def test_what_does_nothing_is_taken(pair):
    model, tokenizer = pair
    prompt = tokenizer("你好", return_tensors="pd")
    neutral = {"use_cache": True, "early_stopping": False, "num_beam_groups": 1, "typical_p": 1.0, "seed": None}
    wanted = model.generate(**prompt, max_new_tokens=4)[0].tolist()
    assert model.generate(**prompt, max_new_tokens=4, **neutral)[0].tolist() == wanted
    assert model.generate(**prompt, max_length=4)[0].tolist() == wanted
    assert model.generate(**prompt, max_length=4, stopping_criteria=[], generation_config=None)[0].tolist() == wanted
    ends = [paddle.to_tensor([3, 5]), np.array([3, 5]), (3, 5), [3, 5]]
    assert len({str(model.generate(**prompt, max_length=4, eos_token_id=end)[0].tolist()) for end in ends}) == 1
    assert model.generate(**prompt)[0].shape[1] <= 20
    with pytest.raises(UsageError, match="generate needs input_ids: what the tokenizer gives of a prompt"):
        model.generate()
