"""predict_generation.py on tensor-parallel shards writes what it writes with the whole model in one process.

But for the first test, whose subject is the launcher, the ranks are forked with the launcher's variables (warm.py).
"""

import shutil

import numpy as np
import pytest
from commands import Result, run_launched
from safetensors.numpy import load_file
from shards import write_shards

from tests.npu_simulator.launching import needs_compiler

pytestmark = needs_compiler
SHORT = ["--src_length", "64", "--tgt_length", "16"]
WAYS = {
    "greedy": ["--batch_size", "1"],
    "beams": ["--num_beams", "4", "--min_tgt_length", "9", "--length_penalty", "1.2", "--no_repeat_ngram_size", "3"],
    "sampling": ["--do_sample", "--temperature", "2", "--top_k", "20", "--top_p", "0.9", "--seed", "6"],
    "stream": ["--stream", "--do_sample", "--temperature", "2", "--seed", "6"],
}


@pytest.fixture(scope="module")
def shards(model, tmp_path_factory):
    """The trained model, cut for two ranks."""
    directory = tmp_path_factory.mktemp("shards") / "two"
    write_shards(model, directory, 2)
    return directory


@pytest.fixture(scope="module")
def few(sources) -> str:
    return "".join(sources.read_text(encoding="utf-8").splitlines(keepends=True)[:3])


@pytest.fixture(scope="module")
def predict(run, run_npu, shards, model, few):
    """What one process with the whole model prints, and what two ranks with its shards do."""

    def predicted(*arguments, of_ranks=()) -> tuple[Result, list[Result]]:
        words, both = ["predict_generation.py", "--model_name_or_path"], [*SHORT, *arguments, "-"]
        whole = run(*words, model, *both, stdin=few)
        ranks = run_npu.ranks(2, *words, shards, *of_ranks, *both, stdin=few)
        assert [result.code for result in (whole, *ranks)] == [0, 0, 0], [whole, *ranks]
        return whole, ranks

    return predicted


def test_through_the_launcher(run, shards, model, few, tmp_path):
    """Rank 0 reads standard input for all, is heard on the terminal, and saves the whole model."""
    words = ["--model_name_or_path", shards, "--merge_tensor_parallel_path", tmp_path / "merged", *SHORT, "-"]
    result = run_launched(["--devices", "0,1"], "predict_generation.py", *words, cwd=tmp_path, stdin=few)
    assert result.code == 0, str(result)
    whole = run("predict_generation.py", "--model_name_or_path", model, *SHORT, "-", stdin=few)
    assert len(set(result.texts)) > 1 and result.texts == whole.texts
    assert result.logs[1] == ""
    assert "FLAGS" not in result.logs[0] and "[    INFO]" not in result.logs[0]
    merged, stored = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", model))
    assert merged.keys() == stored.keys()
    assert all(np.array_equal(merged[name], array) for name, array in stored.items())
    assert (tmp_path / "merged" / "config.json").read_bytes() == (model / "config.json").read_bytes()
    names = {"added_tokens.json", "cog-pretrain.model", "config.json", "model.safetensors"}
    names |= {"special_tokens_map.json", "tokenizer_config.json"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == names


@pytest.mark.parametrize("way", WAYS)
def test_the_texts_of_one_process(predict, way):
    whole, ranks = predict(*WAYS[way])
    assert len(set(whole.texts)) > 1
    assert ranks[0].out == whole.out
    assert (ranks[1].out, ranks[1].err) == ("", "")


def test_an_adapter_of_another_degree(run, predict, adapter, few, tmp_path):
    """Trained on one device; the two ranks write the adapted model as a whole."""
    merged = tmp_path / "merged"
    whole, ranks = predict("--lora_path", adapter, of_ranks=["--merge_tensor_parallel_path", merged])
    assert ranks[0].out == whole.out
    assert f"saved the merged model to {merged}" in ranks[0].err
    assert run("predict_generation.py", "--model_name_or_path", merged, *SHORT, "-", stdin=few).out == whole.out


def test_an_adapter_that_is_more_than_two_matrices(run, predict, dora, few, tmp_path):
    """DoRA's norms are those of whole columns, of which a rank may hold parts only."""
    merged = tmp_path / "merged"
    whole, ranks = predict("--lora_path", dora, of_ranks=["--merge_tensor_parallel_path", merged])
    assert ranks[0].out == whole.out
    assert run("predict_generation.py", "--model_name_or_path", merged, *SHORT, "-", stdin=few).out == whole.out


def broken(shards, directory, break_it) -> None:
    shutil.copytree(shards, directory)
    break_it(directory / "model_state.tp01.pdparams")


def halve(path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("break_it", "said"),
    [(lambda path: path.unlink(), "lacks model_state.tp01.pdparams"), (halve, "model_state.tp01.pdparams is damaged")],
    ids=["missing", "truncated"],
)
def test_a_shard_that_cannot_be_read(run_npu, shards, tmp_path, break_it, said):
    broken(shards, tmp_path / "shards", break_it)
    refused(run_npu.ranks(2, "predict_generation.py", "--model_name_or_path", tmp_path / "shards"), said)


def test_what_cannot_be_shared_out(run_npu, shards):
    words = ["predict_generation.py", "--model_name_or_path", shards]
    refused(run_npu.ranks(3, *words), "tensor_parallel_degree 3 does not divide num_attention_heads 4")
    refused(run_npu.ranks(2, *words, "--device", "cpu"), "Paddle has no tensor parallelism on the CPU")


def test_ranks_of_different_arguments(run_npu, shards):
    words = ["predict_generation.py", "--model_name_or_path", shards]
    ranks = run_npu.ranks(2, *words, own=[["--num_beams", 3], ["--num_beams", 4]])
    refused(ranks, "differ in the arguments (--num_beams 3 in rank 0, --num_beams 4 in rank 1): start all with")


def refused(ranks: list[Result], said: str) -> None:
    """Every rank ends, with one line; whoever is the second to notice may hear it from the first."""
    for result in ranks:
        assert result.code in (1, 2), str(result)
        assert result.out == ""
        assert result.err.count("error: ") == 1 and said in result.err, str(result)
        assert "Traceback" not in result.err
