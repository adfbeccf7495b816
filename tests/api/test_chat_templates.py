"""apply_chat_template's other options, templates that are set, and tokenizers that are copied."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_chat import KINDS, tokenizer_of

from glm import AutoTokenizer
from glm.errors import GLMError, UsageError

USER = [{"role": "user", "content": "你好"}]
ANSWERED = [*USER, {"role": "assistant", "content": " 好呀 "}]
CLOSED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|endoftext|>{% endfor %}"
STRIPPED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content.strip() }}<|endoftext|>{% endfor %}"


@pytest.mark.parametrize(("template", "wanted"), [(CLOSED, " 好呀 "), (STRIPPED, "好呀")], ids=["kept", "stripped"])
def test_the_last_message_continues(template, wanted):
    """transformers 5.3.0's texts: nothing that a template writes behind it, blanks as the template leaves them."""
    tokenizer = tokenizer_of("glm4-0414")
    options = {"chat_template": template, "continue_final_message": True}
    text = tokenizer.apply_chat_template(ANSWERED, tokenize=False, **options)
    assert text == f"<|user|>你好<|endoftext|><|assistant|>{wanted}"
    assert tokenizer.apply_chat_template(ANSWERED, **options) == tokenizer.text_ids(text)
    with pytest.raises(UsageError, match="continue_final_message continues the last message, and add_generation_p"):
        tokenizer.apply_chat_template(ANSWERED, add_generation_prompt=True, **options)
    with pytest.raises(UsageError, match="continue_final_message needs a last message with a text"):
        tokenizer.apply_chat_template([{"role": "user"}], **options)
    with pytest.raises(GLMError, match="leaves the last message out, so it cannot be continued"):
        tokenizer.apply_chat_template(ANSWERED, chat_template="{{ messages[0].content }}", continue_final_message=True)
    with pytest.raises(UsageError, match="continue_final_message: this model's answers begin behind its own tokens"):
        tokenizer_of("chatglm").apply_chat_template(ANSWERED, continue_final_message=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("messages", ["你好", USER[0], [], [[]], ["你好"], [USER, []], None, 3], ids=str)
def test_what_is_no_conversation(kind, messages):
    wanted = r"messages,? .*a list of \{role, content\} objects, or a list of such lists"
    with pytest.raises(UsageError, match=wanted):
        tokenizer_of(kind).apply_chat_template(messages)


def test_what_chatglm_cannot_ask():
    parts = [{"role": "user", "content": [{"type": "text", "text": "你好"}]}]
    for messages in (parts, [{"role": "user"}]):
        with pytest.raises(GLMError, match="the content of message 1 is not a text"):
            tokenizer_of("chatglm").apply_chat_template(messages)
    with pytest.raises(UsageError, match="return_assistant_tokens_mask is not implemented"):
        tokenizer_of("glm4").apply_chat_template(USER, return_assistant_tokens_mask=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_template_that_is_set(kind, tmp_path):
    tokenizer = tokenizer_of(kind)
    before = tokenizer.apply_chat_template(USER, tokenize=False)
    assert tokenizer.get_chat_template() == tokenizer.chat_template
    again = tokenizer.apply_chat_template(USER, chat_template=tokenizer.chat_template, tokenize=False)
    assert again == before
    tokenizer.chat_template = "{{ messages[0].content }}!"
    assert tokenizer.apply_chat_template(USER, tokenize=False) == "你好!"
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == "{{ messages[0].content }}!"
    with pytest.raises(UsageError, match="chat_template is a int, and must be the text of a template"):
        tokenizer.chat_template = 3
    with pytest.raises(GLMError, match="the chat template has an error in line 1"):
        tokenizer.chat_template = "{{ x"
    tokenizer.chat_template = None
    assert tokenizer.chat_template == (tokenizer.default_template or None)


@pytest.mark.parametrize("kind", ["glm-tiny-chinese", *KINDS])
def test_copies_and_threads(kind):
    """DataLoader workers get tokenizers by pickle."""
    tokenizer = AutoTokenizer.from_pretrained(kind) if kind == "glm-tiny-chinese" else tokenizer_of(kind)
    texts = [f"你好{'呀' * (i % 7)}" for i in range(64)]
    wanted = tokenizer(texts)
    for other in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer), copy.copy(tokenizer)):
        assert other(texts) == wanted
        if kind in KINDS:
            assert other.apply_chat_template(USER) == tokenizer.apply_chat_template(USER)
    assert pickle.loads(pickle.dumps(wanted)) == copy.deepcopy(wanted) == wanted
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(tokenizer.encode, texts)) == wanted.input_ids
