"""The tokenizer of GLM-4-0414's directories gives transformers' answers: golden ones, and its own where it is."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from tiny_chat import tokenizer_of

from glm import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).parent / "fixtures/transformers_tokenizer.json"
TRANSFORMERS = ROOT / ".venv-bench/bin/python"


def as_list(value):
    if hasattr(value, "tolist"):
        return as_list(value.tolist())
    return [as_list(item) for item in value] if isinstance(value, (list, tuple)) else value


def as_plain(value):
    return {k: as_list(v) for k, v in value.items()} if hasattr(value, "items") else json.loads(json.dumps(value))


USER = [{"role": "user", "content": "你好"}]
SAID = [*USER, {"role": "assistant", "content": " 好呀 "}]
CLOSED = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|endoftext|>{% endfor %}"
BARE = CLOSED.replace("m.content", "m.content.strip()")
LONGER = [{"role": "system", "content": "a"}, {"role": "user", "content": "你好呀"}]
CALLS = {
    "text": "t('你好')",
    "pair": "t('你好', '好')",
    "list": "t(['你好呀', '好'])",
    "pairs": "t([('你好呀', '好'), ('a', 'b')])",
    "spelt": "t('[gMASK]<sop>你好 <|user|> x')",
    "padded": "t(['你好呀', '好'], padding=True, return_tensors='np')",
    "padded right": "t(['你好呀', '好'], padding=True, padding_side='right')",
    "cut": "t('你好呀呀呀', truncation=True, max_length=4)",
    "cut pair": "t('你好呀呀呀', '好呀', truncation=True, max_length=6)",
    "max_length": "t(['你好呀呀呀', '好'], truncation=True, padding='max_length', max_length=4)",
    "no mask": "t('你好', return_attention_mask=False)",
    "encode": "t.encode('你好')",
    "tokenize": "t.tokenize('你好 a')",
    "decode": "t.decode([756, 758, 296, 351, 761])",
    "decode skipping": "t.decode([756, 758, 296, 351, 761], skip_special_tokens=True)",
    "decode rows": "t.decode([[756, 296], [351]])",
    "batch_decode": "t.batch_decode([[756, 296], [351]], skip_special_tokens=True)",
    "tokens": "t.convert_ids_to_tokens([756, 758, 296, 351])",
    "tokens skipping": "t.convert_ids_to_tokens([756, 758, 296, 351], skip_special_tokens=True)",
    "ids": "t.convert_tokens_to_ids(['[gMASK]', '<sop>'])",
    "chat text": "t.apply_chat_template(user, tokenize=False, add_generation_prompt=True)",
    "chat ids": "t.apply_chat_template(user, add_generation_prompt=True, return_dict=False)",
    "chat dict": "t.apply_chat_template(user, add_generation_prompt=True, return_dict=True)",
    "chat batch": "t.apply_chat_template([user, longer], padding=True, return_tensors='np', return_dict=True)",
    "numbers": "[t.vocab_size, len(t), t.pad_token_id, t.eos_token_id, t.pad_token, t.padding_side]",
    "cut pair to three": "t('你好呀', '好呀好呀', truncation=True, max_length=3)",
    "cut pair to seven": "t('好呀好呀', '你好呀', truncation='longest_first', max_length=7)",
    "cut equal pair": "t('好呀', '你呀', truncation=True, max_length=5)",
    "cut left": "setattr(t, 'truncation_side', 'left') or t('你好呀', '好呀好呀', truncation=True, max_length=5)",
    "cut right": "setattr(t, 'truncation_side', 'right') or t('你好呀', truncation=True, max_length=3)",
    "types": "t('你好', return_token_type_ids=True)",
    "types of a pair": "t('你好', '好呀', return_token_type_ids=True)",
    "types of a batch": "t(['你好', '好'], ['好呀', 'a'], padding=True, return_token_type_ids=True)",
    "pad": "t.pad({'input_ids': [[1, 2, 3], [4]]})",
    "pad a row": "t.pad({'input_ids': [1, 2, 3]}, padding='max_length', max_length=5)",
    "pad with labels": "t.pad({'input_ids': [[1, 2, 3], [4]], 'labels': [[1, 2, 3], [4]]})",
    "pad with classes": "t.pad([{'input_ids': [1, 2], 'labels': 0}, {'input_ids': [4], 'labels': 1}])",
    "pad without mask": "t.pad([{'input_ids': [1, 2, 3]}, {'input_ids': [4]}], return_attention_mask=False)",
    "tokens as text": "t.convert_tokens_to_string(t.tokenize('你好 hello'))",
    "added": "t.get_added_vocab()",
    "special mask": "t.get_special_tokens_mask([756, 296, 351], already_has_special_tokens=True)",
    "special": "[sorted(t.all_special_ids), sorted(t.all_special_tokens)]",
    "template": "t.chat_template",
    "continued": "t.apply_chat_template(said, continue_final_message=True, chat_template=closed, tokenize=False)",
    "continued stripped": "t.apply_chat_template(said, chat_template=bare, continue_final_message=True, tokenize=0)",
    "continued ids": "t.apply_chat_template(said, continue_final_message=True, return_dict=False)",
    "own template": "t.apply_chat_template(user, chat_template=closed, return_dict=False)",
    "neutral": "t('你好', verbose=False, return_offsets_mapping=False, is_split_into_words=False, text_target=None)",
    "data": "[t('你好').data, t('你好').to('cpu').data]",
    "processed": "p('你好')",
    "processed pair": "p('你好', '好')",
    "processed without": "p('你好', add_special_tokens=False)",
    "processed cut": "p('你好呀呀呀', truncation=True, max_length=5)",
}


def special(name: str) -> dict:
    return {"SpecialToken": {"id": name, "type_id": 0}}


def sequence(name: str, type_id: int) -> dict:
    return {"Sequence": {"id": name, "type_id": type_id}}


# A post-processor as the -hf directories of GLM-4-9B may have it.
PROCESSED = {
    "type": "TemplateProcessing",
    "single": [special("[gMASK]"), special("<sop>"), sequence("A", 0)],
    "pair": [special("[gMASK]"), sequence("A", 0), special("<sop>"), sequence("B", 1)],
    "special_tokens": {
        name: {"id": name, "ids": [index], "tokens": [name]} for name, index in (("[gMASK]", 756), ("<sop>", 758))
    },
}


def processed_directory(folder: Path) -> Path:
    shutil.copytree(ROOT / "data/glm4-0414-tiny", folder, dirs_exist_ok=True)
    content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8")) | {"post_processor": PROCESSED}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> dict:
    spaces = {
        "t": tokenizer_of("glm4-0414"),
        "p": AutoTokenizer.from_pretrained(processed_directory(tmp_path_factory.mktemp("processed"))),
        "user": USER,
        "longer": LONGER,
        "said": SAID,
        "closed": CLOSED,
        "bare": BARE,
    }
    return {name: as_plain(eval(call, dict(spaces))) for name, call in CALLS.items()}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_transformers(answers, name):
    assert answers[name] == json.loads(GOLDEN.read_text(encoding="utf-8"))[name]


def test_the_golden_values_are_transformers(tmp_path):
    if not TRANSFORMERS.is_file():
        pytest.skip("there is no environment with transformers 5.3.0")
    assert ask_transformers(processed_directory(tmp_path)) == json.loads(GOLDEN.read_text(encoding="utf-8"))


def ask_transformers(processed: Path) -> dict:
    """The same calls in transformers, in a process of its own."""
    code = (
        "import json, sys\nfrom transformers import AutoTokenizer\n"
        "calls, user, longer, said, closed, bare, ours, processed = json.loads(sys.argv[1])\n"
        "t, p = map(AutoTokenizer.from_pretrained, (ours, processed))\n"
        "def lists(v):\n"
        "    v = v.tolist() if hasattr(v, 'tolist') else v\n"
        "    return {k: lists(x) for k, x in v.items()} if hasattr(v, 'items') else v\n"
        "print('ANSWERS' + json.dumps({n: lists(eval(c)) for n, c in calls.items()}))\n"
    )
    given = json.dumps([CALLS, USER, LONGER, SAID, CLOSED, BARE, str(ROOT / "data/glm4-0414-tiny"), str(processed)])
    done = subprocess.run([str(TRANSFORMERS), "-c", code, given], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.partition("ANSWERS")[2])
