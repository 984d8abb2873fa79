"""A tiny tokenizer with a chat template, in a folder as models have them."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

CORPUS = [
    "The river above the dam carries more water in spring than the turbines can take.",
    "system user assistant tool You are a helpful assistant. What is the capital of France?",
    '{"type": "function", "function": {"name": "open_gate", "description": "Open a gate", "parameters": {}}}',
] * 4
TEMPLATE = """\
{%- if tools %}{{ '<|start|>tools\\n' }}{% for tool in tools %}{{ tool | tojson }}{{ '\\n' }}{% endfor %}{{ '<|end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<call>' }}{{ call.function.name }}{{ call.function.arguments | tojson }}{{ '</call>' }}
{%- endfor %}
{{- '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}
"""


def make_tokenizer(folder, template=TEMPLATE, vocabulary=600):
    """Write the folder; the tokenizer itself."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    made.add_tokens([AddedToken("<call>", normalized=False), AddedToken("</call>", normalized=False)])
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
    )
    made.save(str(folder / "tokenizer.json"))
    content = {"bos_token": {"content": "<s>", "special": True}, "eos_token": "<|end|>", "chat_template": template}
    (folder / "tokenizer_config.json").write_text(json.dumps(content))
    return made
