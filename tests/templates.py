"""Short chat templates of the forms that models are published with, and pairs of which neither poisons the other."""

from __future__ import annotations

PROMPTED = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
CHATML = "{% for m in messages %}" + TURN + "{% endfor %}" + PROMPTED
ALTERNATES = (
    "{% for m in loop_messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% endfor %}"
)
SYSTEM_APART = (
    "{% if messages[0].role == 'system' %}{% set system_message = messages[0].content %}{% set loop_messages = messages[1:] %}"
    "{% else %}{% set system_message = '' %}{% set loop_messages = messages %}{% endif %}"
)
TOOLS = (
    "<|im_start|>system\n{% if messages[0].role == 'system' %}{{ messages[0].content }}{% else %}You are a kind assistant."
    "{% endif %}\n\n# Tools\n\nYou may call these functions, given within <tools></tools>:\n"
    "<tools>{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n</tools>\n\n"
    "For each call return a JSON object within <tool_call></tool_call>.<|im_end|>\n"
)
THOUGHT = (
    "{% if m.reasoning_content is string %}{% set thought = m.reasoning_content %}{% elif '</think>' in content %}"
    "{% set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}"
    "{% set content = content.split('</think>')[-1].lstrip('\\n') %}{% endif %}"
)
FORMS = {
    "ChatML": CHATML,
    "ChatML by roles": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<|im_start|>user\n' + m['content'] + '<|im_end|>\n' }}"
        "{% elif m.role == 'assistant' %}{{ '<|im_start|>assistant\n' + m['content'] + '<|im_end|>\n' }}"
        "{% else %}{{ '<|im_start|>system\n' + m['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}" + PROMPTED
    ),
    "ChatML for training": CHATML.replace(
        TURN,
        "{% if m.role == 'assistant' %}{% generation %}" + TURN + "{% endgeneration %}{% else %}" + TURN + "{% endif %}",
    ),
    "Zephyr": (
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>\n' + m.content + eos_token }}"
        "{% elif m.role == 'system' %}{{ '<|system|>\n' + m.content + eos_token }}"
        "{% elif m.role == 'assistant' %}{{ '<|assistant|>\n' + m.content + eos_token }}{% endif %}"
        "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}{% endfor %}"
    ),
    "Qwen2.5": (
        "{% if tools %}" + TOOLS + "{% elif messages[0].role != 'system' %}<|im_start|>system\n"
        "You are a kind assistant.<|im_end|>\n{% endif %}{% for m in messages %}"
        "{% if m.role == 'user' or (m.role == 'system' and not (tools and loop.first)) or (m.role == 'assistant' and not m.tool_calls) %}"
        + TURN + "{% elif m.role == 'assistant' %}<|im_start|>assistant{% for call in m.tool_calls %}\n<tool_call>\n"
        "{{ call.function | tojson }}\n</tool_call>{% endfor %}<|im_end|>\n{% elif m.role == 'tool' %}"
        "{% if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user{% endif %}\n<tool_response>\n"
        "{{ m.content }}\n</tool_response>{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>\n"
        "{% endif %}{% endif %}{% endfor %}" + PROMPTED
    ),
    "Qwen3": (
        "{% set ns = namespace(looking=true, last=messages|length - 1) %}{% for m in messages[::-1] %}"
        "{% if ns.looking and m.role == 'user' and m.content is string and not"
        " (m.content.startswith('<tool_response>') and m.content.endswith('</tool_response>')) %}"
        "{% set ns.looking = false %}{% set ns.last = messages|length - 1 - loop.index0 %}{% endif %}{% endfor %}"
        "{% for m in messages %}{% set content = m.content %}{% set thought = '' %}"
        "{% if m.role == 'assistant' %}" + THOUGHT + "<|im_start|>assistant\n"
        "{% if loop.index0 > ns.last %}<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ content }}<|im_end|>\n"
        "{% else %}" + TURN + "{% endif %}{% endfor %}" + PROMPTED
        + "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    ),
    "thoughts cut out of the middle": (
        "{% for m in messages %}{% if m.role == 'assistant' and '<think>' in m.content and '</think>' in m.content %}"
        "<|im_start|>assistant\n{{ m.content.split('<think>')[0] + m.content.split('</think>')[-1] }}<|im_end|>\n"
        "{% else %}" + TURN + "{% endif %}{% endfor %}" + PROMPTED
    ),
    "R1": (
        "{% set ns = namespace(system='') %}{% for m in messages if m.role == 'system' %}{% set ns.system = m.content %}"
        "{% endfor %}{{ bos_token }}{{ ns.system }}{% for m in messages %}{% if m.role == 'user' %}{{ '<|User|>' + m.content }}"
        "{% elif m.role == 'assistant' %}{% set content = m.content %}{% if '</think>' in content %}"
        "{% set content = content.split('</think>')[-1] %}{% endif %}{{ '<|Assistant|>' + content + '<|end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
    ),
    "Gemma 2": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
        "{% set loop_messages = messages %}" + ALTERNATES + "{% for m in messages %}"
        "{% set role = 'model' if m.role == 'assistant' else m.role %}"
        "{{ '<start_of_turn>' + role + '\n' + m.content | trim + '<end_of_turn>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "Gemma 3": (
        "{{ bos_token }}" + SYSTEM_APART + ALTERNATES + "{% for m in loop_messages %}"
        "{{ '<start_of_turn>' + ('model' if m.role == 'assistant' else m.role) + '\n' }}"
        "{{ system_message + '\n\n' if loop.first and system_message }}{% if m.content is string %}{{ m.content | trim }}"
        "{% else %}{% for part in m.content %}{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text | trim }}"
        "{% endif %}{% endfor %}{% endif %}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "Mistral v0.1": (
        "{{ bos_token }}{% set loop_messages = messages %}" + ALTERNATES + "{% for m in messages %}{% if m.role == 'user' %}"
        "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}{{ m.content + eos_token }}"
        "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"
    ),
    "Mistral v0.3": (
        SYSTEM_APART + "{% set asked = loop_messages | selectattr('role', 'equalto', 'user') | list %}" + ALTERNATES
        + "{{ bos_token }}{% for m in loop_messages %}{% if m.role == 'user' %}{% if tools and m == asked[-1] %}"
        "{{ '[AVAILABLE_TOOLS] ' + tools | tojson + '[/AVAILABLE_TOOLS]' }}{% endif %}"
        "{{ '[INST] ' + (system_message + '\n\n' if loop.last and system_message else '') + m.content + '[/INST]' }}"
        "{% elif m.tool_calls %}{{ '[TOOL_CALLS] ' + m.tool_calls | tojson + eos_token }}"
        "{% elif m.role == 'tool' %}{{ '[TOOL_RESULTS] ' + m.content | string + '[/TOOL_RESULTS]' }}"
        "{% else %}{{ ' ' + m.content | trim + eos_token }}{% endif %}{% endfor %}"
    ),
    "Llama 3": (
        "{% for m in messages %}{% set content = '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim"
        " + '<|eot_id|>' %}{{ bos_token + content if loop.first else content }}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "Llama 3.1": (
        "{{ bos_token }}{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% else %}"
        "{% set today = '26 Jul 2024' %}{% endif %}" + SYSTEM_APART + "<|start_header_id|>system<|end_header_id|>\n\n"
        "{% if tools is not none %}Environment: ipython\n{% endif %}Cutting Knowledge Date: December 2023\n"
        "{{ 'Today Date: ' + today + '\n\n' }}{{ system_message | trim }}<|eot_id|>"
        "{% for m in loop_messages %}{% if tools is not none and loop.first %}<|start_header_id|>user<|end_header_id|>\n\n"
        "Given the following functions, please respond with a JSON for a function call.\n\n"
        "{{ tools | tojson(indent=4) }}\n\n{{ m.content | trim }}<|eot_id|>{% elif 'tool_calls' in m %}"
        "{% if m.tool_calls|length != 1 %}{{ raise_exception('One call at once!') }}{% endif %}"
        "{{ m.tool_calls[0].function | tojson }}<|eot_id|>"
        "{% else %}{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "channels": (
        "<|start|>system<|message|>You are a large model trained by us.\nKnowledge cutoff: 2024-06\n"
        "{{ 'Current date: ' + strftime_now('%Y-%m-%d') }}\n\nReasoning: medium\n\n# Valid channels: analysis, final.<|end|>"
        + SYSTEM_APART + "{% if system_message or tools %}<|start|>developer<|message|># Instructions\n\n{{ system_message }}"
        "<|end|>{% endif %}{% for m in loop_messages %}{% if m.role == 'assistant' %}"
        "{% if '<|channel|>analysis<|message|>' in m.content %}"
        "{{ raise_exception('You have passed a message containing <|channel|> tags; pass the analysis by itself.') }}{% endif %}"
        "<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
        "{% else %}<|start|>user<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    ),
}  # fmt: skip
FORMS["Qwen2.5 with another system text"] = FORMS["Qwen2.5"].replace("a kind assistant", "Fox, a friend who helps")
FORMS["Llama 3.1 without a date"] = FORMS["Llama 3.1"].replace("{{ 'Today Date: ' + today + '\n\n' }}", "")
FORMS["Llama 3.1 saved again"] = FORMS["Llama 3.1"].replace("'", '"').replace("{% for", "{%- for")
TWINS = [
    ("ChatML", "ChatML by roles"), ("ChatML", "ChatML for training"), ("ChatML", "Zephyr"), ("ChatML", "channels"),
    ("ChatML", "thoughts cut out of the middle"), ("ChatML", "Qwen2.5"), ("Qwen2.5", "Qwen3"),
    ("Qwen2.5", "Qwen2.5 with another system text"), ("Qwen2.5", "R1"), ("Gemma 2", "Gemma 3"), ("Gemma 2", "ChatML"),
    ("Mistral v0.1", "Mistral v0.3"), ("Mistral v0.3", "Zephyr"), ("Llama 3", "Llama 3.1"), ("Llama 3.1", "Llama 3"),
    ("Llama 3.1", "Llama 3.1 without a date"), ("Llama 3.1", "Llama 3.1 saved again"),
]  # fmt: skip
"""A base's template, and one that its fine-tunes are published with."""
