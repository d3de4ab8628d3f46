"""Conversations on which two chat templates are compared: what a chat server is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Turn = Mapping[str, Any]


def _turns(*texts: str, system: str = "") -> Sequence[Turn]:
    roles = ("user", "assistant")
    said = [{"role": roles[index % 2], "content": text} for index, text in enumerate(texts)]
    return [{"role": "system", "content": system}, *said] if system else said


CONVERSATIONS: Sequence[Sequence[Turn]] = (
    _turns("Hello"),
    _turns("What is 2 + 2?", "4", "And 3 + 3?"),
    _turns("a", "b", "c", "d", "e", "f", "g"),
    _turns("Name a colour.", system="Answer in one word."),
    _turns("Name a colour.", "Red.", "Another one?", "Blue.", "Thanks!", system="You are terse.\nNo lists."),
    _turns("Write code:\n\n```python\nprint({'a': 1})\n```", "{{ x }} {% y %}", "<b>\"quoted\" & 'so'</b>"),
    _turns("Grüße — 你好 🙂", "Très bien…\n\nД", "¿Qué?", system="Réponds en français."),
)
"""None has white space around a turn's text, which some templates take away."""

TEXTS: Sequence[str] = (
    "Hello, world!",
    "It costs 12,345.67 euros, or 3 * 4 = 12; call 0049 30 1234.",
    "Steps:\n\n1. Mix.\n\n2. Wait.\n\n\n3. Bake.",
    "a\nb\r\nc\n\n d\n  e\t\tf",
    "  two spaces  in  between",
    "I've told you he's here; they'll say WE'VE won. DON'T!",
    "def f(x):\n    if x > 0:\n        return x ** 2\n    return {'a': [1, 2]}\n",
    "https://example.org/a_b?c=d&e=%20#f <b>tag</b> @user #tag $5 50% ~/.cfg",
    "Größe, naïve, Łódź, ñandú, œuvre, İstanbul",
    "Привет, мир! Как дела в 2024 году?",
    "你好,世界。今天是2024年5月3日,天气很好!",
    "こんにちは。カタカナ と ひらがな、漢字。",
    "한국어 문장입니다. 숫자 42.",
    "مرحبا بالعالم ١٢٣ שלום עולם",
    "नमस्ते दुनिया, আজ কেমন আছ?",
    "🙂👍🏽👩‍👩‍👧 ✅→≠ ½ ™ …",
    "x² + y³ = z; α, β, γ ∈ ℝ",
    "CamelCase snake_case kebab-case ALLCAPS mixed123abc 0x1F",
    "====---- **bold** ``code`` ### title\n> quote\n- item\n* item",
    "end with newline\n",
    "... ?! (a) [b] {c} \"d\" 'e' `f` — – -",
)
"""Texts that tokenizers divide differently: numbers, line breaks, white space, signs and letters of many alphabets."""
