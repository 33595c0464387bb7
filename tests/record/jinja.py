#!/usr/bin/env python3
"""Records tests/data/jinja/templates.jsonl: templates, requests and what jinja2 makes of them under the
settings that transformers uses. Needs jinja2 (recorded with 3.1.6):

    python3 tests/record/jinja.py > tests/data/jinja/templates.jsonl

The templates are written here, after the behaviour of published ones; those of Llama 3.1 and Guard 3 must
give the prompts of tests/data/golden/prompts.jsonl. A line is {"name", "template", "request", "output" or
"error"}, without the template where it is that of the line before."""
import json
import sys
from datetime import datetime, timezone

from jinja2 import TemplateError

from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.fromtimestamp(1732406400, timezone.utc)


def environment():
    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    def raise_exception(message):
        raise TemplateError(message)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


CHATML = """{% for message in messages %}
{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}
"""
LLAMA3 = """{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = \
'<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' \
%}{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""
LLAMA32 = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- if strftime_now is defined %}
        {%- set date_string = strftime_now("%d %b %Y") %}
    {%- else %}
        {%- set date_string = "26 Jul 2024" %}
    {%- endif %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and tools is defined %}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
{%- endif %}
{{- system + "<|eot_id|>" }}
{#- the rest -#}
{%- for message in messages %}
    {%- if message.tool_calls is defined and message.tool_calls %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("one call at once") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- else %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
"""
MISTRAL = """{%- set ns = namespace(index=0, last=-1) %}
{%- for message in messages | selectattr("role", "equalto", "user") | list %}
    {%- set ns.last = loop.index0 %}
{%- endfor %}
{{- bos_token }}
{%- for message in messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is defined and ns.index == ns.last %}
            {{- "[AVAILABLE_TOOLS] [" }}
            {%- for tool in tools %}
                {{- "{" }}
                {%- for key, val in tool.function.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}{{- ", " }}{%- endif %}
                {%- endfor %}
                {{- "}" ~ ("" if loop.last else ", ") }}
            {%- endfor %}
            {{- "][/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- set ns.index = ns.index + 1 %}
    {%- elif message["role"] == "assistant" and message.content is string %}
        {{- " " + message["content"].strip() + eos_token }}
    {%- else %}
        {%- continue %}
    {%- endif %}
{%- endfor %}
"""
HERMES = """{%- macro kind(spec) %}
{%- set types = {"string": "str", "integer": "int", "number": "float"} %}
{%- if spec.type in types %}{{- types[spec.type] }}
{%- elif spec.type == "array" %}{{- "list[" + kind(spec["items"]) + "]" }}
{%- elif spec.enum is defined %}{{- "Union[" + spec.enum|join(", ") + "]" }}
{%- else %}{{- "Any" }}{%- endif %}
{%- endmacro %}
{%- for tool in tools or [] %}
{%- for name, spec in tool.function.parameters.properties|items %}
{{ loop.index }}/{{ loop.length }} {{ name }}: {{ kind(spec) }}{{ " # " ~ spec.description if spec.description }}
{%- endfor %}
{%- endfor %}
{% for message in messages %}
    {%- if not message.content %}{% break %}{% endif %}
<|im_start|>{{ message.role|upper }}
{{ message.content.split("</think>")[-1].lstrip("\\n") }}<|im_end|>
{% endfor %}"""
# Llama 3.1, whose prompts for the requests of tests/data/golden/prompts.jsonl are known
HEADER = '"<|start_header_id|>%s<|end_header_id|>\\n\\n"'
FORMAT = """{{- 'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.' }}
    {{- "Do not use variables.\\n\\n" }}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}"""
LLAMA31 = """{{- bos_token }}
{%- if custom_tools is defined %}{%- set tools = custom_tools %}{%- endif %}
{%- if not tools_in_user_message is defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if not date_string is defined %}{%- set date_string = "26 Jul 2024" %}{%- endif %}
{%- if not tools is defined %}{%- set tools = none %}{%- endif %}

{#- the system text, wherever it comes from #}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- SYSTEM }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n" }}
{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}
{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none and not tools_in_user_message %}
    {{- "You have access to the following functions. To call a function, please respond with JSON for a function call." }}
    FORMAT
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("Cannot put tools in the first user message when there's no first user message!") }}
    {%- endif %}
    {{- USER -}}
    {{- "Given the following functions, please respond with a JSON for a function call " }}
    {{- "with its proper arguments that best answers the given prompt.\\n\\n" }}
    FORMAT
    {{- first_user_message + "<|eot_id|>" }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("This model only supports single tool-calls at once!") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- ASSISTANT -}}
        {%- if builtin_tools is defined and tool_call.name in builtin_tools %}
            {{- "<|python_tag|>" + tool_call.name + ".call(" }}
            {%- for arg_name, arg_val in tool_call.arguments | items %}
                {{- arg_name + '="' + arg_val + '"' }}
                {%- if not loop.last %}{{- ", " }}{%- endif %}
            {%- endfor %}
            {{- ")" }}
        {%- else %}
            {{- '{"name": "' + tool_call.name + '", ' }}
            {{- '"parameters": ' }}
            {{- tool_call.arguments | tojson }}
            {{- "}" }}
        {%- endif %}
        {{- "<|eom_id|>" if builtin_tools is defined else "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- IPYTHON }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- ASSISTANT }}
{%- endif %}
""".replace("FORMAT", FORMAT)
for role in ("system", "user", "assistant", "ipython"):
    LLAMA31 = LLAMA31.replace("{{- " + role.upper(), "{{- " + HEADER % role)
CATEGORIES = ["Violent Crimes", "Non-Violent Crimes", "Sex Crimes", "Child Exploitation", "Defamation",
              "Specialized Advice", "Privacy", "Intellectual Property", "Indiscriminate Weapons", "Hate", "Self-Harm",
              "Sexual Content", "Elections", "Code Interpreter Abuse"]
GUARD3 = """{% if messages|length % 2 == 0 %}{% set role = "Agent" %}{% else %}{% set role = "User" %}{% endif %}
 {{ bos_token }}<|start_header_id|>user<|end_header_id|>

Task: Check if there is unsafe content in '{{ role }}' messages in conversations according our safety policy with the below categories.

<BEGIN UNSAFE CONTENT CATEGORIES>
""" + "".join(f"S{i}: {c}.\n" for i, c in enumerate(CATEGORIES, 1)) + """<END UNSAFE CONTENT CATEGORIES>

<BEGIN CONVERSATION>

{% for message in messages %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}
    {% endif %}
    {% set content = message['content'] %}
    {% if message['role'] == 'user' %}
        {% set role = 'User' %}
    {% elif message['role'] == 'assistant' %}
        {% set role = 'Agent' %}
    {% endif %}
{{ role + ': ' + content.strip() + '\\n\\n' }}
{%- endfor %}
<END CONVERSATION>

Provide your safety assessment for ONLY THE LAST {{ role }} message in the above conversation:
 - First line must read 'safe' or 'unsafe'.
 - If unsafe, a second line must include a comma-separated list of violated categories.<|eot_id|>\
<|start_header_id|>assistant<|end_header_id|>"""
GOLDEN = {"hf_template_3.1": ("llama31", LLAMA31), "llama_guard_hf": ("guard3", GUARD3)}
# as SmolLM2, which invents a system message; as Mistral, whose turns alternate
SMOLLM2 = """{% for m in messages %}
{%- if loop.first and m['role'] != 'system' %}
{{- '<|im_start|>system
You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>
' }}
{%- endif %}
{{- '<|im_start|>' + m['role'] + '
' + m['content'] + '<|im_end|>' + '
' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"""
MISTRAL1 = """{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}
{%- set rest = messages[1:] -%}{%- else -%}{%- set rest = messages -%}{%- endif -%}
{{ bos_token }}{% for message in rest %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% if message['role'] == 'user' %}\
{{ '[INST] ' + (system + '\\n\\n' if loop.first and system is defined else '') + message['content'] + ' [/INST]' }}\
{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% endif %}{% endfor %}"""
CASED = [c for c in (*range(0x80, 0x180), *range(0x384, 0x3CF), *range(0x400, 0x530), *range(0x5D0, 0x600), *range(0x1E00, 0x1E96), *range(0x1EA0, 0x1F00),
                     *range(0x4E00, 0x4E10)) if c not in (0x38B, 0x38D, 0x3A2, 0x130, 0x149, 0x390, 0x3B0, 0x3A3)]
CASED = "".join(map(chr, CASED))
PIECES = ["{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 / 2 }} {{ 2 ** 10 }} {{ 1.0 }} {{ 1e3 if x else 5 }}",
          "{{ 'abcdef'[::-1] }} {{ 'äöü'[1] }} {{ [1,2,3,4][1:-1] }} {{ 'abc'[5:] }}|{{ 'abc'[-2:] }}",
          "{{ [1, 'a', none, true, {'k': 1.5}, (1,), \"it's\"] }}",
          "{{ 'a' in 'abc' }} {{ 3 not in [1,2] }} {{ 1 < 2 < 3 }} {{ not 1 == 2 }}",
          "a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "x {%- if true -%} y {% endif %} z\n\n",
          "{{ ' a b  c '.split() }} {{ 'a,b,c'.split(',', 1) }} {{ 'x'.replace('x', 'yy') }}",
          "{{ x }}|{{ x|default('d') }}|{{ ''|default('e', true) }}|{{ none|default('f') }}",
          "{% for a in [1,2,3] if a > 1 %}{{ loop.index }}{{ a }}{% else %}none{% endfor %}",
          "{% set s %}a{{ 1 }}b{% endset %}{{ s|length }}{{ s|upper }}{{ 'ab cd'|title }}",
          "{{ {'b': 1, 'a': [1, {}]}|tojson }} {{ {'b': 1, 'a': []}|tojson(indent=2, sort_keys=true) }}",
          "{{ [3,1,2]|sort }} {{ ['b','A']|sort|join('-') }} {{ {'b':1,'a':2}|dictsort }} {{ [1,1,2]|unique|list }}",
          "{{ messages|map(attribute='role')|join(',') }} {{ messages|length }} {{ messages[0].nope }}",
          "{{ 1 + '1' }}", "{{ nope.x }}", "{{ raise_exception('no ' ~ 1) }}", "{{ 5|nofilter }}",
          "{% for i in range(3) %}{{ i }}{% if i == 1 %}{% break %}{% endif %}{% endfor %}",
          "{{ 'a' ~ 1 ~ none ~ true }} {{ '%d' if false }} {{ 'A'.lower() }} {{ [] or 'or' }}",
          "{{ 'x\\ty\\'z' }} {{ \"\\u00e9\" }} {{ 'a' 'b' }} {# c #} {{ 3.0|int }} {{ '12'|int + 1 }}",
          "{{ \"line1\\nline2\"|indent(2) }} {{ 'abc'|first }}{{ [1,2]|last }} {{ 'abc'|reverse }}",
          "{% macro m(a, b='z') %}[{{ a }}{{ b }}]{% endmacro %}{{ m(1) }}{{ m(b=2, a='q') }}",
          "{{ 4 is even }} {{ x is undefined }} {{ 'a' is string }} {{ {} is mapping }} {{ 1 is number }}",
          "a {% raw %}{{ x }} {% if %}{% endraw %} b", "a\n  {%- raw -%}\n {{ x }}\n  {%- endraw -%}\n b",
          "a\n  {% raw %}\n  b {#\n  {% endraw %}\nc", "{% raw %} {% endraw %}|{%+ raw %}{%+ endraw +%}\n|",
          "{% for i in range(5) %}{{ loop.cycle('a', 'b', 'c') }}{% endfor %}", "{% raw %}x", "{% filter %}{% endfilter %}",
          "{% filter upper %}a{{ 1 }}b {% filter trim|replace('C', 'x') %} cC {% endfilter %}{% endfilter %}|",
          "{% set a = 1 %}{% filter trim %}{% set a = 2 %}{{ a }} {% endfilter %}{{ a }}{% set b %}{% set a = 3 %}{% endset %}{{ a }}",
          "{% macro box(t) %}<{{ t }}:{{ caller() }}>{% endmacro %}{% call box('x') %}in{{ 1 }}{% endcall %}",
          "{% macro each(l) %}{% for x in l %}({{ caller(x, loop.index) }}){% endfor %}{% endmacro %}"
          "{% call(v, i=0) each(['a', 'b']) %}{{ i }}{{ v }}{% endcall %}",
          "{% macro o() %}[{{ caller() }}]{% endmacro %}{% call o() %}a{% call o() %}b{% endcall %}c{% endcall %}",
          "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% call 1 %}{% endcall %}",
          "{{ \"it's a (foo) b-a[r] 1st x2y\"|title }} {{ \"it's a-b 1st x2y\".title() }} {{ 'aBC dE'|capitalize }}",
          f"{{{{ '{CASED}'|upper }}}}", f"{{{{ '{CASED}'|lower }}}}",
          "{{ 5|round }} {{ 5|round(1) }} {{ 15|round(-1) }} {{ 2.5|round }} {{ 2.567|round(2) }} {{ true is even }}"
          "{{ {'k': 1}[1:] }}|{{ none[:2] }}|",
          "{{ 'straße ПРИВЕТ мир ÉTÉ ÿ'|title }} {{ 'ßa'|capitalize }} {{ 'ßa straße'.title() }} {{ 'Àé'.lower() }}",
          "{% for i in [[1, 2], [3, 4]] %}{{ i|join('+') }};{% endfor %}",
          "{% set ns = namespace(a=1) %}{% for i in [1,2] %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}"]
# what a random comparison with jinja2 found
PIECES += ["{{ [1, 'a'] * 2 }} {{ 0 * [1] }} {{ (1, 2) * 2 }} {{ true * [3] }} {{ [] * 5 }}",
           "{% set y = 'o' %}{% with y = 1, z = y %}{{ y }}{{ z }}{% set y = 5 %}{{ y }}{% endwith %}{{ y }}{% with %}{{ z }}w{% endwith %}",
           "{% for x in 1, 'b', [3] %}{{ x }};{% endfor %}{% for a, b in (1, 2), (3, 4) if a > 1 %}{{ a }}{{ b }}{% endfor %}{% for x in 1, %}{{ x }}{% endfor %}",
           "{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }}{{ loop.changed(x, 0) }} {% endfor %}",
           "{% for x in ['a', 'a', 'b'] %}{% if loop.changed(x) %}<{{ x }}>{% endif %}{% for y in [1, 1] %}{{ loop.changed(y) }}{% endfor %}{% endfor %}",
           "{% for x in [1, 2] %}{% break %}{% else %}none{% endfor %}{% for x in [1, 2] %}{% continue %}{% else %}none{% endfor %}"
           "{% for x in [1, 2] %}{% if x == 2 %}{% break %}{% endif %}{% else %}none{% endfor %}",
           "{{ {1: {}} }}{{ {'a': {'b': {}}}['a']}}{% set d = {'x': {'y': 1}} %}{{ d.x.y }}{{ [{'k': [1, {}]}] }}",
           "{{ '%s is %d%%' % ('a', 3) }} {{ '%r %s' % ('q', none) }} {{ 'x%s' % 1 }} {{ '%s-%s'|format(1, 'b') }} {{ 'a' % [1] }}",
           "{{ 'a' % 1 }}", "{{ '%s %s' % (1,) }}", "{{ '%d' % 'a' }}",
           "{{ [missing, 1] }} {{ {'k': messages[0].nope} }} {{ missing }}|{{ missing ~ 'x' }}",
           "{{ 'ÄbC'|min }}{{ 'ÄbC'|max }} {{ ['b', 'A', 'c']|max }} {{ ['B', 'a']|min }} {{ ['a', 'A', 'b']|unique|list }}",
           "{{ [{'k': 2, 'n': 'x'}, {'k': 1, 'n': 'y'}, {'k': 2, 'n': 'z'}]|groupby('k') }}"
           "{% for k, l in [{'k': 'b'}, {'k': 'A'}, {'k': 'b', 'z': 1}]|groupby('k') %}{{ k }}={{ l|length }};{% endfor %}",
           "{{ [{'k': 2}, {'k': 1}, {'k': 2}]|unique(attribute='k')|list }} {{ [{'k': 2}, {'k': 1}]|min(attribute='k') }}",
           "{{ [1, 2, 3, 4, 5]|batch(2)|list }} {{ [1, 2, 3]|batch(2, 0)|list }} {{ [1, 2, 3, 4, 5]|slice(3)|list }} {{ [1, 2, 3, 4]|slice(3, 'x')|list }}",
           "{{ [1, 2.5, 3]|sum }} {{ [{'n': 1}, {'n': 4}]|sum(attribute='n') }} {{ [[1], [2]]|sum(start=[0]) }} {{ []|sum }}",
           "{{ none|map('upper')|list }} {{ false|select|list }} {{ 0|map(attribute='k')|list }} {{ ''|reject('none')|list }}",
           "{{ 'x'|int(5) }} {{ []|int(5) }} {{ '2.5'|float(1) }} {{ 'q'|float(1.5) }} {{ none|int }} {{ true|abs }} {{ true|round }}",
           "{{ [1, 2]|join(3) }} {{ 'abc'|join(none) }} {{ [1, none]|join(missing) }}",
           "{{ '<a href=\"x\">&\\'</a>'|e }} {{ 3|escape }} {{ 'ä b/c?d=é&~'|urlencode }} {{ 'one two-three 4 ü'|wordcount }}",
           "[{{ 'abc'|center(8) }}] [{{ 'abcd'|center(7) }}] [{{ 'abc'.center(8) }}] [{{ 'abcd'.center(7) }}] [{{ 'é'.ljust(3) }}] [{{ 'é'.rjust(3) }}] {{ '-7'.zfill(4) }} {{ 'x'.zfill(3) }}",
           "{{ 'a\\nb\\r\\nc\\n'.splitlines() }} {{ 'a\\nb'.splitlines(true) }} {{ ''.splitlines() }} {{ 'a,b,c'.rsplit(',', 1) }} {{ 'a,b,c'.rsplit(',') }}",
           "{{ 'a=b=c'.partition('=') }} {{ 'a=b=c'.rpartition('=') }} {{ 'abc'.partition('x') }} {{ 'abc'.rpartition('x') }}",
           "{{ 'prefix-x'.removeprefix('prefix-') }} {{ 'x.py'.removesuffix('.py') }} {{ 'x'.removesuffix('') }} {{ 'éaa'.rfind('a') }} {{ 'éa'.index('a') }} {{ 'é'.rfind('z') }}",
           "{{ 'a'.index('z') }}", "{{ [1, 2, 1].count(1) }} {{ [1, 'a'].index('a') }}", "{{ [1].index(3) }}", "{{ [1].append(2) }}",
           "{{ '12'.isdigit() }} {{ ''.isdigit() }} {{ 'aB'.isalpha() }} {{ 'a1'.isalnum() }} {{ ' \\n'.isspace() }} {{ 'AB1'.isupper() }} {{ 'a b'.islower() }} {{ '1'.islower() }}",
           "{{ 'ABC' is upper }} {{ 'aB' is upper }} {{ 'a1' is lower }} {{ '1' is lower }} {{ 'É' is upper }} {{ 'a' is escaped }} {{ missing is callable }}",
           "{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}",
           "{% set n = 5 %}{{ n[1:] }}", "{{ 5[1:] }}|{{ n[1:] }}", "{% with x = %}{% endwith %}", "{% with x = 1 %}", "{{ [1] * 'a' }}"]
# content that is no text: templates get it as it came
PARTS = [{"role": "user", "content": [{"type": "text", "text": "T <|eot_id|>"}, {"type": "image"}]},
         {"role": "assistant", "content": None}, {"role": "tool", "content": [1, {"a": None}]}, {"role": "user"}]
PIECES += ["{% for m in messages %}{{ m.content }}|{% endfor %}",
           "{% for m in messages %}{{ m.role }}: {% if m.content is string %}{{ m.content }}{% elif m.content is none %}-{% elif m.content is defined %}"
           "{% for p in m.content %}{% if p is mapping and p.type == 'text' %}{{ p.text }}{% else %}[{{ p|tojson }}]{% endif %}{% endfor %}{% endif %};{% endfor %}",
           "{% for m in messages %}{{ m.content|tojson }}{{ m.get('content', 'none') is none }}{% endfor %}",
           "{{ messages[1].content + 'x' }}", "{{ messages[0].content[0].text + 'x' }}", "{{ messages[1].content|trim }}"]
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "Wetter <jetzt> & hier",
          "parameters": {"type": "object", "properties": {
              "city": {"type": "string", "description": "Ort"}, "days": {"type": "integer"},
              "tags": {"type": "array", "items": {"type": "string"}}, "x": {"enum": ["a", "b"]}},
              "required": ["city"]}}}]
CHATS = [
    [{"role": "user", "content": "Hi"}],
    [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "\n Grüße 🦙 <|eot_id|> \t"}],
    [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>x</think>\n\nb"},
     {"role": "user", "content": "c \"q\" 'r' \\ {{ 1 }}"}],
    [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "", "tool_calls": [{"function": {
        "name": "get_weather", "arguments": {"city": "Köln", "days": 3, "f": 0.1, "n": None}}}]},
     {"role": "tool", "content": "22 C"}, {"role": "tool", "content": {"t": [22, "é"]}}],
    [{"role": "user", "content": "w?"}, {"role": "assistant", "content": "", "tool_calls": []}],
]


def main():
    env = environment()
    cases = [(name, template, {"messages": chat, **extra})
             for name, template in (("chatml", CHATML), ("llama3", LLAMA3), ("llama32", LLAMA32),
                                    ("mistral", MISTRAL), ("hermes", HERMES))
             for chat in CHATS
             for extra in ({}, {"add_generation_prompt": True, "tools": TOOLS})]
    cases += [(name, template, {"messages": chat, "add_generation_prompt": True})
              for name, template in (("smollm2", SMOLLM2), ("mistral1", MISTRAL1)) for chat in CHATS]
    with open("tests/data/golden/prompts.jsonl", encoding="utf-8") as f:
        golden = [j for j in map(json.loads, f) if j["source"] in GOLDEN]
    for j in golden:
        name, template = GOLDEN[j["source"]]
        cases.append((name, template, j["input"]))
        if "prompt" in j:
            got = env.from_string(template).render(**j["input"], bos_token="<|begin_of_text|>")
            assert got == j["prompt"], (j["id"], got, j["prompt"])
    cases += [(f"piece{i}", p, {"messages": PARTS if i >= len(PIECES) - 6 else CHATS[1]}) for i, p in enumerate(PIECES)]
    last = None
    for name, template, request in cases:
        line = {"name": name, "request": request}
        if template != last:
            line = {"name": name, "template": template, "request": request}
        last = template
        try:
            line["output"] = env.from_string(template).render(
                **request, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")
        except Exception as e:
            line["error"] = f"{type(e).__name__}: {e}"
        print(json.dumps(line, ensure_ascii=False))


if __name__ == "__main__":
    sys.exit(main())
