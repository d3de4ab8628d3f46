"""Where a chosen and a rejected text or conversation part: what they share before that is the prompt."""

from __future__ import annotations

from itertools import takewhile

from ftcli.data.formats.conversations import FieldFault, Turn, only_read

_NO_PROMPT = "chosen and rejected begin differently and there is no prompt"
_FIX = "add the prompt as a column"


def part_texts(chosen: str, rejected: str) -> dict[str, str]:
    """{"prompt", "chosen", "rejected"}, parted at the last white space that both share, so that no word is cut in two.

    The white space stays with the answers: tokenizers join it to the word behind it.

    Raises:
        FieldFault: nothing is shared, or one side has nothing of its own.
    """
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False)))
    cut = max((i for i in range(1, common) if chosen[i].isspace() and not chosen[i - 1].isspace()), default=0)
    sides = {"chosen": chosen[cut:], "rejected": rejected[cut:]}
    if not chosen[:cut].strip():
        raise FieldFault(_NO_PROMPT, _FIX)
    for name, side in sides.items():
        if not side.strip() or chosen == rejected:
            raise FieldFault(f"{name} holds no answer of its own, and there is no prompt", _FIX, name)
    return {"prompt": chosen[:cut], **sides}


def part_conversations(chosen: list[Turn], rejected: list[Turn]) -> dict[str, list[Turn]]:
    """{"prompt", "chosen", "rejected"}; the last turn is an answer even where both sides give the same one.

    Raises:
        FieldFault: nothing is shared.
    """
    limit = min(len(chosen), len(rejected)) - 1
    # What is only read is the same turn whether or not one side says so.
    ours, theirs = only_read(chosen[:limit]), only_read(rejected[:limit])
    common = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(ours, theirs, strict=True)))
    if not common:
        raise FieldFault(_NO_PROMPT, _FIX)
    return {"prompt": ours[:common], "chosen": chosen[common:], "rejected": rejected[common:]}


def check_agreed(told: list[Turn], found: list[Turn]) -> None:
    """Checks a prompt that stands beside whole conversations against their common beginning.

    Raises:
        FieldFault: the prompt says something that does not occur there.
    """
    begun = [turn["content"].strip() for turn in found]
    if any(turn["content"].strip() not in begun for turn in told):
        what = "prompt is not how chosen and rejected both begin"
        raise FieldFault(what, "keep either the prompt or whole conversations", "prompt")
