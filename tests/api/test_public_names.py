"""What `glm` offers, and that importing it stays light."""

import subprocess
import sys

import numpy as np
import paddle
import pytest

import glm


def test_every_name_is_there():
    assert [name for name in glm.__all__ if getattr(glm, name) is None] == []
    assert len(set(glm.__all__)) == len(glm.__all__)
    assert set(glm.__all__) <= set(dir(glm))
    with pytest.raises(AttributeError, match="module 'glm' has no attribute 'AutoModels'"):
        glm.AutoModels  # noqa: B018


def test_tokenizers_need_no_framework():
    """Neither to be imported nor to be called for numpy arrays."""
    code = (
        "import sys, glm\n"
        "assert not {'numpy', 'tokenizers', 'paddle'} & {m for m in sys.modules if '.' not in m} - {'numpy'}\n"
        "t = glm.ChatGLMTokenizer.from_pretrained('chatglm-6b-tiny')\n"
        "t(['a', 'bb'], padding=True, return_tensors='np')\n"
        "glm.TextStreamer, glm.process_response, glm.BatchEncoding\n"
        "print([m for m in ('paddle', 'paddlenlp') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]", done.stdout


@pytest.mark.parametrize("name", ["AutoModel", "AutoModelForCausalLM"])
def test_auto_models(name, chat_models):
    model = getattr(glm, name).from_pretrained(chat_models["glm4"], trust_remote_code=True, torch_dtype="float32")
    assert isinstance(model, glm.GLMForCausalLM) and not model.training
    config = glm.AutoConfig.from_pretrained(chat_models["glm4"], trust_remote_code=True)
    assert config.hidden_size == model.config.hidden_size
    assert isinstance(glm.AutoModel.from_config(config), glm.GLMForCausalLM)
    assert glm.AutoConfig.from_pretrained("glm_6b_chat").hidden_size == 4096


@pytest.mark.parametrize("dtype", ["bfloat16", paddle.bfloat16, "torch.bfloat16", np.float32, "auto"], ids=str)
def test_names_of_dtypes(chat_models, dtype):
    model = glm.AutoModel.from_pretrained(chat_models["glm4"], torch_dtype=dtype)
    wanted = paddle.bfloat16 if "bfloat16" in str(dtype) else paddle.float32
    assert model.lm_head.weight.dtype == wanted


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"padding_side": "up"}, "padding_side is 'up', and must be 'left' or 'right'"),
        ({"truncation_side": None}, "truncation_side is None, and must be 'left' or 'right'"),
        ({"model_max_length": "a"}, "model_max_length is 'a', and must be a whole number of at least 1"),
        ({"revision": "main"}, "unknown setting 'revision'; known: padding_side"),
    ],
)
def test_settings_of_tokenizers(settings, message):
    with pytest.raises(glm.errors.UsageError, match=message):
        glm.AutoTokenizer.from_pretrained("chatglm-6b-tiny", **settings)


def test_a_loaded_model_in_a_pipeline(chat_models):
    model, tokenizer = (
        glm.AutoModel.from_pretrained(chat_models["glm4"]),
        glm.AutoTokenizer.from_pretrained(chat_models["glm4"]),
    )
    named = glm.pipeline("text-generation", model=chat_models["glm4"], device="cpu", max_new_tokens=5)
    loaded = glm.pipeline("text-generation", model=model, tokenizer=tokenizer, max_new_tokens=5)
    assert loaded("你好") == named("你好")
    (both,) = glm.TextGenerationPipeline(model, tokenizer, max_new_tokens=5)(["你好", "a"])
    answers = both["text_generation_text"]
    assert len(answers) == 2 and answers[0].strip().endswith(named("你好")[0]["generated_text"])
    with pytest.raises(glm.errors.UsageError, match="TextGenerationPipeline needs the model's tokenizer"):
        glm.TextGenerationPipeline(model)


def test_mindspores_calls(tmp_path, chat_models, caplog):
    model = glm.GLMForCausalLM.from_pretrained(chat_models["chatglm"], from_scratch=True)
    wanted = glm.GLMForCausalLM.from_pretrained(chat_models["chatglm"])
    glm.load_checkpoint(chat_models["chatglm"], model)
    assert model([1, 2, 3]).tolist() == wanted([1, 2, 3]).tolist()
    with pytest.raises(glm.errors.GLMError, match=r"a\.ckpt is MindSpore's format, which is not read"):
        glm.load_checkpoint(tmp_path / "a.ckpt", model)
    glm.set_context(mode=glm.GRAPH_MODE, device_target="CPU", pynative_synchronize=True)
    with pytest.raises(glm.errors.UsageError, match="device_target is 'TPU', and must be one of Ascend, GPU, CPU"):
        glm.set_context(device_target="TPU")
    with pytest.raises(glm.errors.UsageError, match="dst_strategy_file must be None"):
        glm.transform_checkpoints(tmp_path, tmp_path / "x", dst_strategy_file="s")


def test_the_quick_tour_of_the_docs(monkeypatch, capsys):
    from pathlib import Path

    text = (Path(__file__).resolve().parents[2] / "docs/python.md").read_text(encoding="utf-8")
    exec(text.split("```python")[1].split("```")[0], {})
    assert capsys.readouterr().out
