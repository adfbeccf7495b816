"""A graph that was exported before penalties and min_p: it writes what it wrote, and refuses by name what it lacks."""

from dataclasses import fields
from types import SimpleNamespace

import pytest
from paddle import nn
from tiny_glm import random_pairs, stop_of, tensors, tiny_model

from glm import GenerationConfig
from glm.encoding.processor import GLMProcessor
from glm.errors import UsageError
from glm.export.paddle_graphs import CONTROL_SPEC, PROMPT_SPEC
from glm.generation.search import Prompt, generate
from glm.inference.exported import LoopGenerator
from glm.model.tracing import save_graph
from glm.runtime.options import RuntimeOptions
from glm.runtime.paddle_inference import PaddleInferenceRuntime

pytestmark = pytest.mark.slow

NEW = {
    "repetition_penalty": 1.1,
    "presence_penalty": 0.5,
    "frequency_penalty": -0.5,
    "min_p": 0.1,
    "suppress_tokens": (4,),
    "begin_suppress_tokens": (4,),
}


class OldGraph(nn.Layer):
    """Takes the options of format version 3; the others are off, by way of inputs, for a graph folds constants."""

    def __init__(self, model, stop):
        super().__init__()
        self.model, self.stop = model, stop

    def forward(self, prompt, control):
        zero = control["temperature"] * 0
        off = {name: zero + getattr(GenerationConfig(), name) for name in NEW if "suppress" not in name}
        off |= {name: zero.astype("int64").reshape([1]) - 1 for name in NEW if "suppress" in name}
        return generate(self.model, Prompt(**prompt), SimpleNamespace(**control, **off), self.stop)


@pytest.fixture(scope="module")
def case(tokenizer, tmp_path_factory):
    """A generator over the graph, prompts, and what the model itself makes of them."""
    prefix, model = tmp_path_factory.mktemp("old") / "glm", tiny_model(seed=8, spread=0.5)
    graph = OldGraph(model, stop_of(tokenizer))
    graph.eval()
    save_graph(graph, [PROMPT_SPEC, {name: spec for name, spec in CONTROL_SPEC.items() if name not in NEW}], prefix)
    runtime = PaddleInferenceRuntime(RuntimeOptions(prefix.with_suffix(".json"), prefix.with_suffix(".pdiparams")))
    processor = GLMProcessor(tokenizer, src_length=16, tgt_length=12)
    prompts = [[*source, tokenizer.sop_token_id] for source, _ in random_pairs(tokenizer, [(9, 1), (3, 1), (7, 1)])]

    def wanted(config):
        tokens, _ = model.generate(Prompt(**tensors(processor.prompt_batch(prompts))), config, stop_of(tokenizer))
        return tokens.tolist()

    return LoopGenerator(runtime, processor), prompts, wanted


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "top_k": 9, "seed": 4}], ids=str)
def test_old_options_act_as_before(case, options):
    generator, prompts, wanted = case
    config = GenerationConfig(8, **options)
    found = generator.generate(prompts, config)
    for row, text in zip(wanted(config), found, strict=True):
        assert row[: len(text)] == text


@pytest.mark.parametrize("name", NEW)
def test_what_it_lacks_is_refused_by_name(case, name):
    generator, prompts, _ = case
    assert name in {field.name for field in fields(GenerationConfig)}
    with pytest.raises(UsageError, match=f"this export was made before {name} was an option: export the model again"):
        generator.generate(prompts, GenerationConfig(8, **{name: NEW[name]}))


def test_its_nucleus_is_another(case):
    generator, prompts, _ = case
    with pytest.raises(UsageError, match="made before top_k together with top_p was an option"):
        generator.generate(prompts, GenerationConfig(8, do_sample=True, top_k=5, top_p=0.7))
    assert generator.generate(prompts, GenerationConfig(8, top_k=5, top_p=0.7))
