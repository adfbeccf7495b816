"""One exported graph gives, token by token, what the model gives, for every way to decode and every size of a batch."""

from itertools import combinations

import numpy as np
import pytest
from paddle import inference
from tiny_glm import make_likely, random_pairs, relative_error, stop_of, tensors, tiny_model

from glm import GenerationConfig
from glm.encoding.processor import GLMProcessor
from glm.export.paddle_graphs import export_graph
from glm.export.paddle_step import export_step_graph
from glm.generation.options import control_arrays
from glm.generation.search import Prompt, StopTokens

pytestmark = pytest.mark.long

SIZES = [(9, 1), (3, 1), (13, 1), (1, 1), (7, 1)]


@pytest.fixture(scope="module")
def model(tokenizer):
    """With dropout, which must not be in the graph, and rows that end at different steps."""
    model = tiny_model(seed=8, spread=0.5, embedding_dropout=0.1, attention_dropout=0.1, hidden_dropout=0.1)
    make_likely(model.model.embed_tokens, model.model.norm, tokenizer.eop_token_id, 12.0)
    return model


@pytest.fixture(scope="module")
def stop(tokenizer) -> StopTokens:
    return StopTokens((tokenizer.eop_token_id, tokenizer.eos_token_id), tokenizer.pad_token_id)


@pytest.fixture(scope="module")
def prefix(model, stop, tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "glm"
    model.train()
    export_graph(model, stop, path)
    model.eval()
    return path


@pytest.fixture(scope="module")
def predictor(prefix):
    config = inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
    config.disable_gpu()
    config.disable_mkldnn()
    config.disable_glog_info()
    return inference.create_predictor(config)


def run(predictor, batch: dict[str, np.ndarray], config: GenerationConfig) -> tuple[np.ndarray, np.ndarray]:
    feeds = batch | control_arrays(config)
    assert set(predictor.get_input_names()) == set(feeds)
    for name in predictor.get_input_names():
        predictor.get_input_handle(name).copy_from_cpu(np.asarray(feeds[name], order="C"))
    predictor.run()
    tokens, scores = (predictor.get_output_handle(name).copy_to_cpu() for name in predictor.get_output_names())
    return tokens, scores


def assert_same(model, predictor, batch, config, stop) -> np.ndarray:
    tokens, scores = model.generate(Prompt(**tensors(batch)), config, stop)
    found, found_scores = run(predictor, batch, config)
    assert found.dtype == np.int64
    assert np.array_equal(found, tokens.numpy())
    assert relative_error(found_scores, scores) < 1e-5
    return found


def batch_of(tokenizer, sizes, **options) -> dict[str, np.ndarray]:
    processor = GLMProcessor(tokenizer, src_length=16, tgt_length=12, **options)
    return processor.prompt_batch([[*source, tokenizer.sop_token_id] for source, _ in random_pairs(tokenizer, sizes)])


WAYS = {
    "greedy": {},
    "greedy, min length": {"min_length": 7},
    "greedy, no repeats": {"no_repeat_ngram_size": 2},
    "sampling": {"do_sample": True, "seed": 3},
    "sampling, another seed": {"do_sample": True, "seed": 2**40},
    "sampling, temperature": {"do_sample": True, "temperature": 0.6, "min_length": 4},
    "top k": {"do_sample": True, "top_k": 5, "temperature": 1.7, "seed": 1},
    "top p": {"do_sample": True, "top_p": 0.8, "seed": 1},
    "both": {"do_sample": True, "top_k": 9, "top_p": 0.9, "no_repeat_ngram_size": 1},
    "four beams": {"num_beams": 4, "length_penalty": 0.0},
    "five beams": {"num_beams": 5, "length_penalty": 0.7, "no_repeat_ngram_size": 3, "min_length": 4},
    "beams, long texts": {"num_beams": 3, "length_penalty": 2.0, "no_repeat_ngram_size": 1},
    "beams, drawn": {"num_beams": 3, "do_sample": True, "top_p": 0.9, "seed": 4},
    "repetition": {"repetition_penalty": 1.8},
    "repetition wanted": {"repetition_penalty": 0.7, "do_sample": True, "seed": 2},
    "presence": {"presence_penalty": 1.5},
    "frequency": {"frequency_penalty": 0.9},
    "min p": {"do_sample": True, "temperature": 2.0, "min_p": 0.3, "seed": 2},
    "suppressed": {"suppress_tokens": tuple(range(0, 400, 3))},
    "suppressed at the beginning": {"begin_suppress_tokens": tuple(range(0, 400, 2))},
    "beams, repetition": {"num_beams": 4, "length_penalty": 0.0, "repetition_penalty": 0.4},
    "beams, counted": {"num_beams": 4, "length_penalty": 0.0, "presence_penalty": -2.0, "frequency_penalty": -1.0},
    "everything": {
        "do_sample": True,
        "temperature": 1.4,
        "top_k": 30,
        "top_p": 0.9,
        "min_p": 0.02,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.3,
        "no_repeat_ngram_size": 3,
        "min_length": 2,
        "suppress_tokens": (9,),
    },
}


@pytest.mark.parametrize("options", WAYS.values(), ids=WAYS)
def test_every_way_to_decode(model, predictor, tokenizer, stop, options):
    assert_same(model, predictor, batch_of(tokenizer, SIZES), GenerationConfig(max_length=10, **options), stop)


def test_the_ways_differ(model, tokenizer, stop):
    """So an option that the graph ignored would have been seen."""
    prompt = Prompt(**tensors(batch_of(tokenizer, SIZES)))
    texts = {name: model.generate(prompt, GenerationConfig(10, **way), stop)[0].tolist() for name, way in WAYS.items()}
    same = [(a, b) for a, b in combinations(texts, 2) if texts[a] == texts[b]]
    assert not same


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("max_length", [1, 2, 17])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_every_size(model, predictor, tokenizer, stop, rows, max_length, num_beams):
    """Rows, prompt widths and new tokens are inputs of the one graph."""
    config = GenerationConfig(max_length, num_beams=num_beams, no_repeat_ngram_size=2)
    found = assert_same(model, predictor, batch_of(tokenizer, SIZES[:rows]), config, stop)
    assert found.shape[0] == rows and found.shape[1] <= max_length


def test_a_graph_that_ran_long_runs_short_again(model, predictor, tokenizer, stop):
    for rows, length in ((5, 15), (1, 3), (4, 12)):
        assert_same(model, predictor, batch_of(tokenizer, SIZES[-rows:]), GenerationConfig(length), stop)


def test_positions_without_blocks(model, predictor, tokenizer, stop):
    batch = batch_of(tokenizer, SIZES, no_block_position=True)
    found = assert_same(model, predictor, batch, GenerationConfig(8), stop)
    other = batch_of(tokenizer, SIZES)
    assert not np.array_equal(found, run(predictor, other, GenerationConfig(8))[0])


def test_rows_end_at_different_steps(predictor, tokenizer, stop):
    tokens, _ = run(predictor, batch_of(tokenizer, SIZES), GenerationConfig(10))
    ends = {row.tolist().index(end) if (end := tokenizer.eop_token_id) in row else None for row in tokens}
    assert len(ends) > 1


def test_the_graph_says_the_same_twice(predictor, tokenizer):
    config = GenerationConfig(10, do_sample=True, seed=6)
    first, again = (run(predictor, batch_of(tokenizer, SIZES), config) for _ in range(2))
    assert np.array_equal(first[0], again[0]) and np.array_equal(first[1], again[1])


def test_export_leaves_the_model_as_it_was(model, tokenizer, tmp_path):
    prompt, config = Prompt(**tensors(batch_of(tokenizer, SIZES))), GenerationConfig(10, num_beams=2)
    before = model.generate(prompt, config, stop_of(tokenizer))[0].numpy()
    export_graph(model, stop_of(tokenizer), tmp_path / "glm")
    assert np.array_equal(model.generate(prompt, config, stop_of(tokenizer))[0].numpy(), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["glm.json", "glm.pdiparams"]


def test_a_step_graph_has_the_same_parameter_file(model, prefix, tmp_path):
    export_step_graph(model, tmp_path / "glm.step")
    assert (tmp_path / "glm.step.pdiparams").read_bytes() == prefix.with_name("glm.pdiparams").read_bytes()
