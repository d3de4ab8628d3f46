"""Splits chosen and rejected at the end of their common prefix, which is the prompt."""

from __future__ import annotations

from itertools import takewhile

from ftcli.data.formats.conversations import FieldFault, Turn, only_read

_NO_PROMPT = "chosen and rejected begin differently and there is no prompt"
_FIX = "add the prompt as a column"


def split_texts(chosen: str, rejected: str) -> dict[str, str]:
    """{"prompt", "chosen", "rejected"}, split at the last white space that both share, so that no word is split.

    The white space goes to the answers, since tokenizers join it to the word that follows.

    Raises:
        FieldFault: nothing is shared, or one side is all prompt.
    """
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    cut = max((i for i in range(1, common) if chosen[i].isspace() and not chosen[i - 1].isspace()), default=0)
    sides = {"chosen": chosen[cut:], "rejected": rejected[cut:]}
    if not chosen[:cut].strip():
        raise FieldFault(_NO_PROMPT, _FIX)
    for name, side in sides.items():
        if not side.strip() or chosen == rejected:
            raise FieldFault(f"{name} has no text after the common beginning, and there is no prompt", _FIX, name)
    return {"prompt": chosen[:cut], **sides}


def split_conversations(chosen: list[Turn], rejected: list[Turn]) -> dict[str, list[Turn]]:
    """{"prompt", "chosen", "rejected"}; the last turn is always an answer, even where both sides have the same one.

    Raises:
        FieldFault: nothing is shared.
    """
    limit = min(len(chosen), len(rejected)) - 1
    # Prompt turns are never trained, so a `weight` on one side does not make them differ.
    ours, theirs = only_read(chosen[:limit]), only_read(rejected[:limit])
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=True)))
    if not common:
        raise FieldFault(_NO_PROMPT, _FIX)
    return {"prompt": ours[:common], "chosen": chosen[common:], "rejected": rejected[common:]}


def check_prompt(prompt: list[Turn], common: list[Turn]) -> None:
    """Check a prompt column beside whole conversations against their common beginning.

    Raises:
        FieldFault: the prompt has a turn that does not occur there.
    """
    contents = [turn["content"].strip() for turn in common]
    if any(turn["content"].strip() not in contents for turn in prompt):
        what = "prompt is not the common beginning of chosen and rejected"
        raise FieldFault(what, "keep either the prompt or whole conversations", "prompt")
