"""MindFormers' Python blocks of ChatGLM-6B (its model card) on a tiny model: other imports, paths and sizes.

`import glm as ms` stands for MindSpore, of which the blocks use set_context, GRAPH_MODE and load_checkpoint.
"""

import re
import shutil

import numpy as np
import paddle
import pytest
from shared_files import SHARED
from tiny_chat import vocabulary

import glm
from glm import GLMForCausalLM

SEED = SHARED / "seeds/mindformers-chatglm-6b.md"
IMPORTS = {
    r"from mindformers\S* import": "from glm import",
    r"from mindspore import": "from glm import",
    r"from transformers import": "from glm import",
    r"import mindspore as ms": "import glm as ms",
    r"import torch as pt": "import paddle as pt",
}
TOTAL = 48
SIZES = "vocab_size=800, hidden_size=128, num_layers=2, num_heads=8, inner_hidden_size=512, max_decode_length=200"

CHAT_GLM = """
import time
import mindspore as ms
import numpy as np
from mindformers.models.glm import GLMConfig, GLMChatModel
from mindformers.models.glm.chatglm_6b_tokenizer import ChatGLMTokenizer
from mindformers.models.glm.glm_processor import process_response

config = GLMConfig(
    position_encoding_2d=True,
    phase="predict",
    use_past=True,
    is_npu_acceleration=True,
)

def chat_glm():
    ms.set_context(mode=ms.GRAPH_MODE, device_target="Ascend", device_id=7)
    model = GLMChatModel(config)
    ms.load_checkpoint("./checkpoint_download/glm/glm_6b.ckpt", model)
    tokenizer = ChatGLMTokenizer('./checkpoint_download/glm/ice_text.model')

    prompts = ["你好", "请介绍一下华为"]
    history = []
    for query in prompts:
        if not history:
            prompt = query
        else:
            prompt = ""
            for i, (old_query, response) in enumerate(history):
                prompt += "[Round {}]\\n问：{}\\n答：{}\\n".format(i, old_query, response)
            prompt += "[Round {}]\\n问：{}\\n答：".format(len(history), query)
        inputs = tokenizer(prompt)

        start_time = time.time()
        outputs = model.generate(np.expand_dims(np.array(inputs['input_ids']).astype(np.int32), 0),
                                    max_length=config.max_decode_length, do_sample=False, top_p=0.7, top_k=1)
        end_time = time.time()
        print(f'generate speed: {outputs[0].shape[0]/(end_time-start_time):.2f} tokens/s')
        response = tokenizer.decode(outputs)
        response = process_response(response[0])
        history = history + [(query, response)]
        print(response)

if __name__ == "__main__":
    chat_glm()
"""
AUTO = """
from mindformers import AutoModel, AutoTokenizer, TextGenerationPipeline
model = AutoModel.from_pretrained("glm_6b_chat")
tokenizer = AutoTokenizer.from_pretrained("glm_6b")
pipeline = TextGenerationPipeline(model, tokenizer, max_length=2048)
answer = pipeline("你好", top_p=0.7)
"""
PIPELINE = """
from mindformers import pipeline
task_pipeline = pipeline(task='text_generation', model='glm_6b', max_length=2048)
answer = task_pipeline('你好', top_p=0.7)
"""
MERGE = """
from mindspore import transform_checkpoints
transform_checkpoints(
    src_checkpoints_dir="./output/checkpoint/",
    dst_checkpoints_dir="./target_checkpoint/",
    ckpt_prefix="glm-6b_rank_xx",
    src_strategy_file="ckpt_stragery.ckpt",
    dst_strategy_file=None
)
"""
TORCH = """
from transformers import AutoModel
import torch as pt

pt_ckpt_path="Your chatglm-6b path"
model = AutoModel.from_pretrained(pt_ckpt_path, trust_remote_code=True).half()
pt_pth_path = "pt_glm_6b.pth"
pt.save(model.state_dict(), pt_pth_path)
"""
BLOCKS = (CHAT_GLM, AUTO, PIPELINE, MERGE, TORCH)


def run(block: str, paths: dict[str, str], sizes: str = "") -> dict:
    for pattern, replacement in IMPORTS.items():
        block = re.sub(pattern, replacement, block)
    for old, new in paths.items():
        assert old in block
        block = block.replace(old, str(new))
    block = block.replace("    is_npu_acceleration=True,", f"    is_npu_acceleration=True, {sizes}")
    names = {"__name__": "__main__"}
    exec(compile(block, "block", "exec"), names)
    return names


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """As MindFormers' checkpoint_download/glm: weights and vocabulary of a tiny ChatGLM-6B."""
    folder = tmp_path_factory.mktemp("glm")
    model = GLMForCausalLM.from_pretrained("chatglm-6b-tiny")
    end_its_texts(model, glm.AutoTokenizer.from_pretrained("chatglm-6b-tiny").eop_token_id)
    model.save_pretrained(folder)
    shutil.copytree(vocabulary("chatglm"), folder, dirs_exist_ok=True)
    return folder


def end_its_texts(model, token: int, amount: float = 0.42) -> None:
    """Raises the end token's logit wherever it is predicted: random models never end otherwise."""
    bias = np.random.default_rng(0).standard_normal(model.model.norm.bias.shape).astype("float32")
    model.model.norm.bias.set_value(bias)
    rows = model.lm_head.weight.numpy()
    rows[:, token] += amount * bias / (bias**2).sum()
    model.lm_head.weight.set_value(rows)


def test_these_are_the_seeds_blocks():
    """Line by line, as far as its characters came through; a comma is put in that it lacks."""
    if not SEED.is_file():
        pytest.skip(f"the seed is not at {SEED}")
    text = SEED.read_text(encoding="utf-8", errors="replace")
    for block in BLOCKS:
        for line in filter(None, map(str.strip, block.splitlines())):
            readable = (line.isascii() and line.removesuffix(",") in text) or "answer = " in line or not line.isascii()
            assert readable, line


def test_chat_glm(directory, capsys):
    paths = {
        "./checkpoint_download/glm/glm_6b.ckpt": directory / "model.safetensors",
        "./checkpoint_download/glm/ice_text.model": directory / "ice_text.model",
    }
    config = run(CHAT_GLM, paths, SIZES)["config"]
    shown = capsys.readouterr().out
    assert shown.count("generate speed: ") == 2
    assert (config.family, config.max_decode_length, config.intermediate_size) == ("chatglm", 200, 512)
    tokenizer = glm.ChatGLMTokenizer.from_pretrained(directory)
    model = GLMForCausalLM.from_pretrained(directory)
    ids = tokenizer("你好")["input_ids"]
    answer = model.generate([ids], max_new_tokens=200 - len(ids))[0].tolist()[0]
    first = glm.process_response(tokenizer.decode([*ids, *answer]))
    assert first in shown
    # The second question has the first round in front of it.
    prompt = tokenizer(f"[Round 0]\n问：你好\n答：{first}\n[Round 1]\n问：请介绍一下华为\n答：")["input_ids"]
    if len(prompt) < 200:
        answer = model.generate([prompt], max_new_tokens=200 - len(prompt))[0].tolist()[0]
        assert glm.process_response(tokenizer.decode([*prompt, *answer])) in shown


def test_the_default_sizes_are_chatglm_6bs():
    config = glm.GLMConfig(position_encoding_2d=True, phase="predict", use_past=True, is_npu_acceleration=True)
    published = glm.GLMConfig.from_pretrained("glm_6b")
    names = "family vocab_size hidden_size num_hidden_layers num_attention_heads intermediate_size gmask_token_id"
    assert [getattr(config, name) for name in names.split()] == [getattr(published, name) for name in names.split()]
    assert config.max_decode_length == 2048
    with pytest.raises(glm.errors.UsageError, match="position_encoding_2d is False, and only True is supported"):
        glm.GLMConfig(position_encoding_2d=False)


def test_auto_classes(directory):
    names = run(AUTO, {"glm_6b_chat": directory, '"glm_6b"': f'"{directory}"', "2048": TOTAL})
    assert_answer(names["answer"], directory)


def test_pipeline(directory):
    assert_answer(run(PIPELINE, {"glm_6b": directory, "2048": TOTAL})["answer"], directory)


def assert_answer(found, directory) -> None:
    model, tokenizer = GLMForCausalLM.from_pretrained(directory), glm.AutoTokenizer.from_pretrained(directory)
    ids = tokenizer("你好")["input_ids"]
    answer = model.generate([ids], max_new_tokens=TOTAL - len(ids))[0].tolist()[0]
    assert found == [{"text_generation_text": [tokenizer.decode([*ids, *answer])]}]
    assert found[0]["text_generation_text"][0].startswith("你好")


def test_one_checkpoint_of_shards(directory, tmp_path):
    from glm.checkpoint.conversion import Conversion
    from glm.checkpoint.convert import convert_checkpoint

    convert_checkpoint(Conversion(directory, tmp_path / "sharded", "paddle", degree=2))
    assert (tmp_path / "sharded/model_state.tp01.pdparams").is_file()
    run(MERGE, {"./output/checkpoint/": tmp_path / "sharded", "./target_checkpoint/": tmp_path / "whole"})
    whole, first = (GLMForCausalLM.from_pretrained(path).state_dict() for path in (tmp_path / "whole", directory))
    assert all(np.array_equal(whole[name].numpy(), value.numpy()) for name, value in first.items())


def test_half_precision_weights_in_one_file(directory, tmp_path):
    file = tmp_path / "glm_6b.pdparams"
    names = run(TORCH, {"Your chatglm-6b path": directory, "pt_glm_6b.pth": file})
    saved = paddle.load(str(file))
    assert saved.keys() == names["model"].state_dict().keys()
    assert {value.dtype for value in saved.values()} == {paddle.float16}
