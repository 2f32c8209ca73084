#!/usr/bin/env python3
"""Conversations through chat templates, as transformers renders them: tests/fixtures/chat.json.

    pip install transformers==5.23.0 jinja2==3.1.6
    tools/make-chat-fixtures.py

The templates are written for this file, each after the manner of a family of models: the constructs are theirs, the words are not.
"""

import datetime
import json
from importlib.metadata import version
from pathlib import Path

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast
from transformers.utils import chat_template_utils

TARGET = Path(__file__).parent.parent / "tests/fixtures/chat.json"
DATE = "2026-11-24"

TEMPLATES = {
    "chatml": """{% for m in messages %}{% if loop.first and m['role'] != 'system' %}{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}{{'<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}""",
    "llama3": """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "01 Jan 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{{- "Today: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time, please!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + tool_call.name + '", "parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
""",
    "mistral": """{%- if messages[0]["role"] == "system" %}
  {%- set system_message = messages[0]["content"] %}
  {%- set loop_messages = messages[1:] %}
{%- else %}
  {%- set loop_messages = messages %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for message in loop_messages %}
  {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
    {{- raise_exception("Roles must take turns: user, assistant, user, ...") }}
  {%- endif %}
  {%- set ns.index = ns.index + 1 %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant, found " ~ message.role ~ "!") }}
    {%- endif %}
{%- endfor %}
""",
    "gemma": """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}""",
    "qwen": """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and (loop.last or (not loop.last and reasoning_content)) %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
""",
    "generation": """{# the assistant's part is marked for training #}
{%- macro head(role) -%}
<|{{ role }}|>
{% endmacro -%}
{%- for message in messages -%}
    {%- if message.role == "skip" -%}{%- continue -%}{%- endif -%}
    {{- head(message.role) -}}
    {%- if message.role == "assistant" -%}
    {% generation %}{% set note = "inner" %}
        {{- message.content }} [{{ loop.nextitem is defined }}|{{ note }}]
    {%- endgeneration %}
    {%- else %}
{{ message.content }}
    {%- endif %}
    {{ note is defined }}
    {% if message.role == "stop" %}{% break %}{% endif %}
{% endfor %}
""",
    "python": """{%- for m in messages -%}
{{ m.role.upper() }}|{{ m.role.title() }}|{{ m.content }}|{{ m.content is none }}|{{ true }}|{{ none }}|{{ [1, 2.5, 'a"b', "it's", none, false] }}|{{ {'k': 1, 'l': [true]} }}
    {%- for key, value in m.items() %} {{ key }}={{ value }}{% endfor %}
    {%- for key, value in m | dictsort %} {{ key }}~{{ value|string|length }}{% endfor %}
 {{ m.get('missing', 'fallback') }} {{ (m.content or '').replace('a', 'b').split(' ') | join('+') }} {{ m.nothing }}{{ m.nothing is defined }}
 {{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 2 ** 3 }}
 {{ m | tojson(sort_keys=true, separators=(',', ':')) }} {{ m | tojson(indent=2, ensure_ascii=true) }} {{ 1e20 }} {{ [1e20, 1e-7, 0.1, 1.0] | tojson }}
 {{ "%s-%d" | format(m.role, 3) }} {{ m.role in ['user', 'tool'] }} {{ m.role[0] }}{{ m.role[-2:] }} {{ m.content is string }} {{ m.content is iterable }} {{ '\\t\\\\' }}
{% endfor -%}
""",
}

TALK = [
    {"role": "user", "content": "  What is a quokka? "},
    {"role": "assistant", "content": "A small <b>marsupial</b> & \"a\" friend.\n"},
    {"role": "user", "content": "Größe? 大きさ 🦘 'x' \\n"},
]
SYSTEM = [{"role": "system", "content": "Answer briefly.\n"}, *TALK]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather <today> of a \"place\" & more, größer",
            "parameters": {"type": "object", "properties": {"place": {"type": "string"}, "days": {"type": "integer", "default": 1}}, "required": ["place"]},
        },
    }
]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"place": "Köln", "days": 2, "exact": True, "limit": None, "x": [1.5, {"y": 1e-5}]}}}]}
CALLS = [
    {"role": "user", "content": "Rain in Köln?"},
    CALL,
    {"role": "tool", "content": "{\"rain\": false}"},
    {"role": "assistant", "content": "<think>\nDry.\n</think>\n\nNo.", },
]
REASONING = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "thinking": "\nEasy.\n", "content": "Four"},
]

CASES = [
    *[(name, talk, None, None) for name in TEMPLATES for talk in (TALK, SYSTEM)],
    ("llama3", SYSTEM, TOOLS, DATE),
    ("llama3", CALLS, TOOLS, DATE),
    ("llama3", [TALK[0], {**CALL, "tool_calls": CALL["tool_calls"] * 2}], TOOLS, DATE),
    ("qwen", CALLS, TOOLS, None),
    ("qwen", [*CALLS[:3], CALLS[2], CALLS[3]], None, None),
    ("qwen", REASONING, None, None),
    ("mistral", [TALK[0], TALK[0]], None, None),
    ("mistral", [TALK[0], {"role": "critic", "content": "Hm."}], None, None),
    ("generation", [TALK[0], {"role": "skip", "content": "-"}, TALK[1], {"role": "stop", "content": "."}, TALK[2]], None, None),
    ("python", [{"role": "assistant", "content": None, "n": 3, "f": 0.25, "t": True, "list": ["a", {"b": "c"}]}], None, None),
]
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}


class Frozen(datetime.datetime):
    @classmethod
    def now(cls):
        return cls.fromisoformat(DATE)


def render(template, messages, tools, date):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), **SPECIAL)
    if date is None:
        # No date is given to templates here, which transformers always does.
        template = template.replace("strftime_now is defined", "false")
    try:
        text = tokenizer.apply_chat_template(messages, tools=tools, chat_template=template, tokenize=False)
        return {"expected": text}
    except Exception as error:  # noqa: BLE001
        return {"refused": str(error)}


def main():
    chat_template_utils.datetime = Frozen
    cases = [
        {"template": name, "messages": messages, "tools": tools, "date": date, **render(TEMPLATES[name], messages, tools, date)}
        for name, messages, tools, date in CASES
    ]
    made_by = f"tools/make-chat-fixtures.py, transformers {version('transformers')}, jinja2 {version('jinja2')}"
    document = {"made_by": made_by, "special": SPECIAL, "templates": TEMPLATES, "cases": cases}
    TARGET.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    print(f"{len(cases)} cases, {sum('refused' in case for case in cases)} of them refused")


if __name__ == "__main__":
    main()
