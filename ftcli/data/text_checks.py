"""Quality checks on the characters of one text: placeholders that were never filled in, and encoding errors.

They run over every text of every row, so each begins with the cheapest test that can rule the problem out.
"""

from __future__ import annotations

import re
from functools import cache

# --- placeholders ---------------------------------------------------------------------------------------------------

# Code and LaTeX use double braces too, but around something other than a name.
_NAMED = re.compile(r"(?<!\$)\{\{[ \t]*(?=[\d_.\- ]*[^\W\d_])([\w.\-](?:[\w.\- ]{0,38}[\w.\-])?)[ \t]*\}\}")
_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`", re.S)
# \frac{{a}}{{b}}, x^{{n}}: the braces of a formula that went through a formatter.
_FORMULA_BEFORE = re.compile(r"(?:\\[A-Za-z]+\*?|[\^_])(?:\{\{[^{}]*\}\})*\Z")
# @article{…, title = {{Some Title}}}: BibTeX keeps capitals that way.
_BIBTEX = re.compile(r"@[A-Za-z]+\s*\{")
_BIBTEX_BEFORE = re.compile(r"=\s*\Z")


def placeholders(text: str) -> list[str]:
    """Names in double braces that look like unfilled placeholders; code and formulas are ignored."""
    if "{{" not in text or "}}" not in text:
        return []
    if "`" in text:
        text = _CODE.sub(" ", text)
    bibtex = _BIBTEX.search(text)
    names = []
    for found in _NAMED.finditer(text):
        before = text[max(0, found.start() - 120) : found.start()]
        if _FORMULA_BEFORE.search(before) or (bibtex and _BIBTEX_BEFORE.search(before)):
            continue
        names.append(found[1])
    return list(dict.fromkeys(names))


# --- encoding -------------------------------------------------------------------------------------------------------

_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\r"})

# The second and later bytes of a UTF-8 character, when read as cp1252, or as latin-1 where cp1252 has no character.
_LATER = bytes(range(0x80, 0xC0)).decode("cp1252", "ignore") + "\x81\x8d\x8f\x90\x9d"
# These also follow a letter in good text: the end of a word in capitals, AMANHÃ…, or of a quotation.
_MARKS = "…‘’“”–—«»\xa0"
_CLEAR = "".join(sorted(set(_LATER) - set(_MARKS)))
_NO_CAPITAL = r"(?<![A-ZÀ-ÖØ-ÞĐĂƠƯ])"
_NEVER = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd"

# The leading class of first characters lets the search skip everything that cannot start a match.
_GARBLED = (
    f"[{_NEVER}ÂÃâðïÐÑã-é](?:"
    f"(?<=[{_NEVER}])"
    f"|(?<=[ÂÃ])[{_CLEAR}]"
    f"|(?<={_NO_CAPITAL}[ÂÃ])[{_MARKS}]"
    r"|(?<=[a-z.,;:!?)]Â)[ ]"
    f"|(?<=â)(?:€|[{_CLEAR}][{_LATER}]|[{_MARKS}][{_CLEAR}])"
    f"|(?<=ð)Ÿ|(?<=ï)(?:»¿|¿½|¼[{_LATER}])"
    f"|(?<=[ÐÑ])[{_LATER}][ÐÑ][{_LATER}]"
    f"|(?<=[ã-é])[{_LATER}]{{2}}[ã-é][{_LATER}]{{2}})"
)


@cache
def _garbled() -> re.Pattern[str]:
    """Compiled when a text first needs it: that takes as long as importing ten modules."""
    return re.compile(_GARBLED)


def garbled(text: str) -> str:
    """The first characters that look like an encoding error, or that no text contains; "" if none."""
    if text.isascii():
        # Deleting them from the bytes is several times faster than a search for them in the text.
        raw = text.encode()
        if len(raw.translate(None, _CONTROLS)) == len(raw):
            return ""
    found = _garbled().search(text)
    return found[0] if found else ""
