"""The tiny world's tokenizer: byte-level BPE, single digits, newlines alone, ChatML-like turns.

Any text survives a round trip, since every byte is a token. Imports `tokenizers`, and only when it trains.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

VOCAB_SIZE = 1024
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|endoftext|>")

# A newline always stands alone: then what follows a prompt can never fuse with the prompt's last token.
_PATTERN = r"\n| ?\p{L}+| ?\p{N}|'\p{L}+| ?[^\s\p{L}\p{N}]+|[^\S\n]+(?!\S)|[^\S\n]"

# The space before the content makes an answer's first token the one that pretraining saw after "Answer:".
CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['role'] == 'assistant' -%}
{%- generation -%}
{{- ' ' + (message['content'] | trim) + '<|im_end|>' -}}
{%- endgeneration -%}
{%- else -%}
{{- ' ' + (message['content'] | trim) + '<|im_end|>' -}}
{%- endif -%}
{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""


def train(texts: Iterable[str], folder: Path, vocab_size: int = VOCAB_SIZE) -> None:
    """Train the tokenizer on texts and write its three files into folder."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "pad_token": "<|pad|>",
        "extra_special_tokens": ["<|im_start|>", "<|endoftext|>"],
        "model_max_length": 8192,
        "padding_side": "right",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")
