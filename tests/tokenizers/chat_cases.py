"""Templates and conversations of chat_fixtures.json, shared by its maker and the test."""

import json
from pathlib import Path

from shared_files import SHARED

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = Path(__file__).with_name("chat_fixtures.json")
REAL_CONFIG = SHARED / "real" / "tokenizers" / "glm-4-9b-chat.tokenizer_config.json"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "查询天气 <b>&",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
USER = {"role": "user", "content": "你好"}
ANSWER = {"role": "assistant", "content": "你好👋！\n很高兴"}
CALL = {"role": "assistant", "metadata": "get_weather", "content": '{"city": "北京"}'}
SEEN = {"role": "observation", "content": "晴，25°C"}
SYSTEM = {"role": "system", "content": "你是助手。"}

CONVERSATIONS = {
    "one question": {"messages": [USER]},
    "two rounds": {"messages": [USER, ANSWER, {"role": "user", "content": "  再见\n"}]},
    "system": {"messages": [SYSTEM, USER]},
    "empty content": {"messages": [{"role": "system", "content": ""}, USER]},
    "tools": {"messages": [SYSTEM, USER, CALL, SEEN], "tools": [WEATHER]},
    "tools in the system message": {
        "messages": [{**SYSTEM, "tools": [WEATHER, {"type": "python"}, {"type": "cogview"}]}, USER, CALL, SEEN]
    },
    "browser": {"messages": [{"role": "system", "content": "", "tools": [{"type": "simple_browser"}]}, USER]},
}

# Every function and setting that transformers gives a template.
FEATURES = """
{%- set state = namespace(turns=0) -%}
{% for message in messages %}
    {% if message['role'] == 'observation' %}
        {% continue %}
    {% endif %}
    {% if loop.index > 3 %}{% break %}{% endif %}
    {% set state.turns = state.turns + 1 %}
{{ loop.index0 }}/{{ eos_token }}/{{ message.role }}:
    {% if message.role == 'assistant' %}
{% generation %}{{ message['content'] | trim }}{% endgeneration %}
    {% else %}
  {{ message | tojson }} {{ message | tojson(indent=2, sort_keys=true) }} {{ message | tojson(ensure_ascii=true) }}
{{ message | tojson(separators=(',', ':')) }}
    {% endif %}

{% endfor %}
{{ state.turns }} {{ strftime_now('%%') }} {{ tools is none }} {{ missing is defined }}{{ missing }}
{% if add_generation_prompt %}go{% endif %}
{# nothing #}
"""


def templates() -> dict[str, str]:
    """Sources that may be written down, by name."""
    tiny = json.loads((ROOT / "data/glm4-tiny/tokenizer_config.json").read_text(encoding="utf-8"))
    return {
        "glm4-tiny": tiny["chat_template"],
        "glm4-0414-tiny": (ROOT / "data/glm4-0414-tiny/chat_template.jinja").read_text(encoding="utf-8"),
        "features": FEATURES,
    }


def cases():
    """(name, arguments) of every rendering."""
    for name, conversation in CONVERSATIONS.items():
        for prompt in (False, True):
            yield f"{name}, prompt {prompt}", {"tools": None, **conversation, "add_generation_prompt": prompt}
