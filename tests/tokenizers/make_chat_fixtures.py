"""Write chat_fixtures.json: what transformers makes of the cases in chat_cases.py, and of the bundled tokenizer.json.

    python tests/tokenizers/make_chat_fixtures.py

Run it in an environment with transformers (written with 5.23); the tests need none. Of GLM-4-9B's own template, which
is not ours to copy, only SHA-256 sums are written, and only where it lies at hand.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import transformers
from chat_cases import CONVERSATIONS, FIXTURES, REAL_CONFIG, ROOT, cases, templates
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

sys.path.insert(0, str(ROOT))

EOS = "<|endoftext|>"
TEXTS = ["你好，世界", "  [gMASK]\n<|user|> a\tb  ", "云溪桥建于1920年 12345", "I'LL go\r\n\r\n x", "😀 e\u0301", ""]


def renderings(template: str) -> dict[str, str]:
    def render(messages, **options):
        return render_jinja_template([messages], chat_template=template, eos_token=EOS, **options)[0][0]

    return {name: render(**arguments) for name, arguments in cases()}


def sums() -> dict[str, str]:
    """SHA-256 of each rendering of GLM-4-9B's template; those written before where it is not at hand."""
    if not REAL_CONFIG.is_file():
        return json.loads(FIXTURES.read_text(encoding="utf-8"))["glm-4-9b-chat sha256"]
    template = json.loads(REAL_CONFIG.read_text(encoding="utf-8"))["chat_template"]
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in renderings(template).items()}


def bundled_ids() -> dict[str, list[int]]:
    """Ids transformers gives with data/glm4-0414-tiny as we save it."""
    from glm.tokenizers import GLMTokenizer

    with tempfile.TemporaryDirectory() as folder:
        GLMTokenizer.from_pretrained(ROOT / "data/glm4-0414-tiny").save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(Path(folder))
    ids = {text: tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS}
    for name in ("two rounds", "tools"):
        arguments = {"tools": None, **CONVERSATIONS[name]}
        messages = arguments.pop("messages")
        chat = tokenizer.apply_chat_template(messages, add_generation_prompt=True, **arguments)
        ids[f"chat: {name}"] = chat if isinstance(chat, list) else chat["input_ids"]
    return ids


def main() -> None:
    content = {
        "transformers": transformers.__version__,
        "renderings": {name: renderings(source) for name, source in templates().items()},
        "glm-4-9b-chat sha256": sums(),
        "glm4-0414-tiny ids": bundled_ids(),
    }
    FIXTURES.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{FIXTURES}: {FIXTURES.stat().st_size} bytes, by transformers {transformers.__version__}")


if __name__ == "__main__":
    main()
