"""Conversations of GLM-4.5 and of those after it, for directories without a template of their own (Jinja).

The texts are those that the published templates of GLM-4.6 and GLM-4.7-Flash write, token by token; the two differ in:

                               GLM-4.5, 4.6                            GLM-4.7, 4.7-Flash, 5
    behind a role token        a line end                              nothing
    in a call, around results  line ends                               nothing
    thoughts that are dropped  <think></think>                         </think>
    an answer begins with      <|assistant|>                           <|assistant|><think>
    and without thinking       /nothink behind each question, and      <|assistant|></think>
                               <|assistant|> with an empty pair
    earlier thoughts           dropped                                 dropped, unless clear_thinking is false
"""

# ⏎ is the line end that only the older ones have; the words of the system turn are what the models were trained on.
_SOURCE = r"""
{%- macro text(content) -%}
{%- if content is string -%}{{- content -}}
{%- else -%}{%- for part in content or () -%}{{- part if part is string else part.text or '' -}}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro call(function) -%}
{{- '⏎<tool_call>' ~ function.name ~ '⏎' -}}
{%- for name, value in (function.arguments or {}).items() -%}
{{- '<arg_key>' ~ name ~ '</arg_key>⏎<arg_value>' -}}
{{- value if value is string else value | tojson(ensure_ascii=False) -}}
{{- '</arg_value>⏎' -}}
{%- endfor -%}
{{- '</tool_call>' -}}
{%- endmacro -%}
{%- set off = enable_thinking is defined and not enable_thinking -%}
{%- set last = namespace(question=-1) -%}
{%- for message in messages -%}
{%- if message.role == 'user' -%}{%- set last.question = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{{- '[gMASK]<sop>' -}}
{%- if tools -%}
{{- '<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n'
  ~ 'You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n' -}}
{%- for tool in tools -%}{{- tool | tojson(ensure_ascii=False) ~ '\n' -}}{%- endfor -%}
{{- '</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n'
  ~ '<tool_call>{function-name}⏎<arg_key>{arg-key-1}</arg_key>⏎<arg_value>{arg-value-1}</arg_value>⏎'
  ~ '<arg_key>{arg-key-2}</arg_key>⏎<arg_value>{arg-value-2}</arg_value>⏎...⏎</tool_call>' -}}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{{- '<|system|>⏎' ~ text(message.content) -}}
{%- elif message.role == 'user' -%}
{{- '<|user|>⏎' ~ text(message.content) ~ NOTHINK -}}
{%- elif message.role == 'assistant' -%}
{%- set said = text(message.content) -%}
{%- set thoughts = message.reasoning_content -%}
{%- if thoughts is not string -%}
{%- set thoughts = '' -%}
{%- if '</think>' in said -%}
{%- set thoughts = said.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') -%}
{%- set said = said.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{%- endif -%}
{{- '<|assistant|>⏎' ~ ('<think>' ~ thoughts.strip() ~ '</think>' if thoughts and KEPT else 'DROPPED') -}}
{{- '⏎' ~ said.strip() if said.strip() -}}
{%- for each in message.tool_calls or () -%}{{- call(each.function or each) -}}{%- endfor -%}
{%- elif message.role in ('tool', 'observation') -%}
{{- '<|observation|>' if loop.first or messages[loop.index0 - 1].role != message.role -}}
{{- '⏎<tool_response>⏎' ~ text(message.content) ~ '⏎</tool_response>' -}}
{%- endif -%}
{%- endfor -%}
{{- '<|assistant|>' ~ ('OFF' if off else 'ON') if add_generation_prompt -}}
"""
_LATER = "loop.index0 > last.question"


def _template(**parts: str) -> str:
    source = _SOURCE
    for name, text in parts.items():
        source = source.replace(name, text)
    return source


GLM45_TEMPLATE = _template(
    NOTHINK="('/nothink' if off and not text(message.content).endswith('/nothink') else '')",
    KEPT=_LATER,
    DROPPED="<think></think>",
    OFF="⏎<think></think>",
    ON="",
).replace("⏎", r"\n")
GLM47_TEMPLATE = _template(
    NOTHINK="''",
    KEPT=f"(clear_thinking is defined and not clear_thinking or {_LATER})",
    DROPPED="</think>",
    OFF="</think>",
    ON="<think>",
).replace("⏎", "")
