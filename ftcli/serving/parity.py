"""What differs between a run and what is served of it: template, tokenizer, end token, weights; and by how much.

The worker says what each prompt and answer should be, and how far the served tokens are from the trained weights and
from others. Here that becomes a verdict on each part, with what it comes from.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ftcli.build.verification import Verdict
from ftcli.serving.stacks import Served

PROMPTS, TOKENIZER, TEMPLATE, ENDS = "prompts", "tokenizer", "template", "end token"
ANSWERS, WEIGHTS = "answers", "weights"
EXACT_NATS = 1e-3
"""A mean difference of log-probabilities below which weights are the same: float32 on two programs differs by less."""
TIE_NATS = 1e-2
"""By how much less likely than the best one a token may be that a server takes, where weights are the same."""
MOVED = 0.05
"""A share of the token embeddings' size: 8 bits move them by less than a hundredth, another base by more than all."""
_BY_TYPE = {"F32": "32-bit", "F16": "16-bit", "BF16": "16-bit", "Q8_0": "8-bit"}
_SERVE = "serve the model folder of the run, or export it again"
_BASE = "the model before training"


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All that is known of both sides."""

    about: Mapping[str, Any]
    """The run's model: end tokens, BOS token, template, type, sizes."""
    questions: Sequence[Mapping[str, Any]]
    served: Sequence[Served]
    judged: Mapping[str, Any]
    file_type: str = ""
    """How the served weights are stored, where that is said: F32, BF16, Q8_0, Q4_K, …"""
    mixture: str = ""
    """What they were quantised as, where that is a mixture of such types: Q4_K_M, …"""

    @property
    def bos(self) -> int | None:
        """The run's BOS token."""
        return self.about["bos"]["id"] if self.about.get("bos") else None


def verdicts(given: Comparison) -> Iterator[Verdict]:
    """On the prompts, the end tokens, the answers and the weights."""
    prompts = [*_prompts(given)]
    yield from prompts
    same = all(each.state == "ok" for each in prompts)
    yield _ends(given, same_prompts=same)
    yield from _answers(given, same_prompts=same)


# --- prompts ----------------------------------------------------------------------------------------------------------


def _prompts(given: Comparison) -> Iterator[Verdict]:
    total = len(given.questions)
    known = [(q, s) for q, s in zip(given.questions, given.served, strict=True) if s.prompt_ids is not None]
    if len(known) < total:
        yield _counts(given)
        return
    faults = [
        fault
        for (question, served), text in zip(known, given.judged["prompts"], strict=True)
        if (fault := _fault(given, question, served, text or ""))
    ]
    if not faults:
        tokens = sum(len(question["ids"]) for question in given.questions)
        yield Verdict(PROMPTS, "ok", f"the tokens of all {total} are those of training ({tokens} tokens)")
    # One template at fault shows in each prompt beside other words: the first of them is told for all.
    for (part, fix), times in Counter((part, fix) for part, _, fix in faults).items():
        first = next(what for own, what, remedy in faults if (own, remedy) == (part, fix))
        yield Verdict(part, "fault", f"{first} ({times} of {total} prompts)", fix)


def _fault(given: Comparison, question: Mapping[str, Any], served: Served, text: str) -> tuple[str, str, str] | None:
    """The part in which the tokens of one prompt differ, how, and the remedy."""
    own, theirs, bos = question["ids"], served.prompt_ids or [], given.bos
    if own == theirs:
        return None
    name = (given.about.get("bos") or {}).get("text")
    if bos is not None and own[:1] == [bos] and theirs == own[1:]:
        return TOKENIZER, f"the BOS token {name} is missing", "let the server add it, or write it into the template"
    if bos is not None and theirs == [bos, *own]:
        if own[:1] == [bos]:
            fix = "the template writes it already: switch off that the tokenizer adds one (add_bos_token)"
            return TOKENIZER, f"the BOS token {name} is there twice", fix
        fix = "switch off that the tokenizer adds one (add_bos_token): training saw none"
        return TOKENIZER, f"a BOS token {name} is added, which training did not have", fix
    rendered = served.prompt_text if served.prompt_text is not None else text
    if rendered == question["text"] or text == question["text"]:
        at = _parting(own, theirs)
        what = f"the same text becomes other tokens: {own[at : at + 3]} in training, {theirs[at : at + 3]} served"
        return TOKENIZER, what, "serve the tokenizer.json of the run"
    at = _parting(question["text"], rendered)
    ours, others = (repr(each[max(0, at - 16) : at + 24]) for each in (question["text"], rendered))
    return (
        TEMPLATE,
        f"prompts are rendered otherwise: {ours} in training, {others} served",
        ("serve the chat_template.jinja of the run"),
    )


def _parting(one: Sequence[Any], other: Sequence[Any]) -> int:
    """The first place at which two sequences differ."""
    shorter = min(len(one), len(other))
    return next((i for i in range(shorter) if one[i] != other[i]), shorter)


def _counts(given: Comparison) -> Verdict:
    """By the number of tokens alone, where a server says no more."""
    pairs = [(len(q["ids"]), s.prompt_count) for q, s in zip(given.questions, given.served, strict=True)]
    off = [count - own for own, count in pairs if count is not None]
    if not off:
        return Verdict(PROMPTS, "note", "the server says neither their tokens nor how many there are: not compared")
    if not any(off):
        what = f"as many tokens as in training in each of {len(off)}; the server does not say which"
        return Verdict(PROMPTS, "ok", what)
    begins = given.bos is not None and all(q["ids"][:1] == [given.bos] for q in given.questions)
    name = (given.about.get("bos") or {}).get("text")
    if set(off) == {-1} and begins:
        what = f"each has one token less than in training: the BOS token {name} is missing"
        return Verdict(TOKENIZER, "fault", what, "let the server add it, or write it into the template")
    if set(off) == {1} and given.bos is not None:
        what = f"each has one token more than in training: the BOS token {name} is " + (
            "there twice" if begins else "added, which training did not have"
        )
        return Verdict(TOKENIZER, "fault", what, "switch off that the tokenizer adds one (add_bos_token)")
    low, high = min(off), max(off)
    by = f"{low:+d}" if low == high else f"{low:+d} to {high:+d}"
    what = f"{sum(map(bool, off))} of {len(off)} have other numbers of tokens than in training ({by})"
    fix = "serve the chat_template.jinja and the tokenizer.json of the run"
    return Verdict(f"{TEMPLATE} or {TOKENIZER}", "fault", what, fix)


# --- end tokens -------------------------------------------------------------------------------------------------------


def _ends(given: Comparison, *, same_prompts: bool) -> Verdict:
    """By the tokens of the answers where a server says them, else by their texts."""
    stops, names = {int(number) for number in given.about["ends"]}, ", ".join(given.about["ends"].values())
    says_end = any(each.ids and each.ids[-1] in stops for each in given.served)
    sure, likely = Counter[str](), Counter[str]()
    for question, served in zip(given.questions, given.served, strict=True):
        if served.ids is not None:
            sure[_end_by_tokens(served, stops, says_end=says_end and question["ended"])] += 1
        elif same_prompts:
            likely[_end_by_text(question, served)] += 1
    ended = sum(bool(question["ended"]) for question in given.questions)
    total = len(given.questions)
    for found in (sure, likely):
        # Weights that differ a little end one answer elsewhere; another end token, all of them.
        if found["beyond"] and (found is sure or 2 * found["beyond"] > ended):
            what = f"{found['beyond']} of {total} answers go on where the run's end, at {names}"
            fix = "serve the generation_config.json of the run, or name its end tokens there"
            return Verdict(ENDS, "fault", what, fix)
        if found["early"] and (found is sure or 2 * found["early"] > total):
            what = f"{found['early']} of {total} answers end where the run's go on"
            return Verdict(ENDS, "fault", what, f"let only {names} end an answer: look for stop words of the server")
    if agreed := sure["agreed"] + likely["agreed"]:
        return Verdict(ENDS, "ok", f"{agreed} answers end where the run's do, at {names}")
    return Verdict(ENDS, "note", "no answer ended in both: ask for longer ones with --max-new-tokens")


def _end_by_tokens(served: Served, stops: set[int], *, says_end: bool) -> str:
    """Whether an answer goes beyond an end token of the run, or ends early, at another one."""
    ids = served.ids or []
    if any(each in stops for each in ids[:-1]) or (ids and ids[-1] in stops and not served.ended):
        return "beyond"
    if served.ended and says_end and ids[-1:] and ids[-1] not in stops:
        return "early"
    return "agreed" if served.ended else "open"


def _end_by_text(question: Mapping[str, Any], served: Served) -> str:
    """The same where only the texts are known, and one begins as the other does."""
    whole, text = question["answer"].strip(), served.text.strip()
    if question["ended"] and text.startswith(whole) and (len(text) > len(whole) or not served.ended):
        return "beyond"
    if served.ended and whole.startswith(text) and (len(text) < len(whole) or not question["ended"]):
        return "early"
    return "agreed" if question["ended"] and served.ended and text == whole else "open"


# --- answers and weights ----------------------------------------------------------------------------------------------


def _answers(given: Comparison, *, same_prompts: bool) -> Iterator[Verdict]:
    trained, total = given.judged["trained"], len(given.questions)
    same = sum(
        ids == question["answer_ids"] for ids, question in zip(given.judged["ids"], given.questions, strict=True)
    )
    parted = [first for first in trained["first"] if first is not None]
    what = f"{same} of {total} are the same greedy answer"
    if parted:
        place, nats = max(parted, key=lambda each: float(each[1]))
        what += f"; where one parts most, at token {place + 1}, the run's own choice is {nats:.2g} nats likelier"
    offered = any(each.logps is not None for each in given.served)
    if not same_prompts and not any(each.prompt_ids for each in given.served):
        yield Verdict(ANSWERS, "note", what)
        yield Verdict(WEIGHTS, "note", "not compared: the prompts are others, and the server does not say their tokens")
        return
    weights = _weights(given, offered=offered)
    if weights.state == "fault" and not any(each.prompt_ids for each in given.served):
        detail = f"{weights.detail}; or prompts of other words and as many tokens: the server does not say them"
        weights = replace(weights, detail=detail)
    agrees = weights.state == "ok" and same_prompts
    yield Verdict(ANSWERS, "ok" if agrees or same == total else "note", what)
    yield weights


def _weights(given: Comparison, *, offered: bool) -> Verdict:
    trained, others = given.judged["trained"], given.judged["others"]
    said = "log-probabilities differ by" if offered else "the tokens that it takes are less likely by"
    size = f"{said} {trained['mean']:.2g} nats at the mean of {trained['tokens']} tokens"
    size += f", {trained['largest']:.2g} at most"
    stored = f" (stored as {given.file_type})" if given.file_type else ""
    if trained["mean"] <= EXACT_NATS and trained["regret"] <= TIE_NATS:
        return Verdict(WEIGHTS, "ok", f"those of the run{stored}: {size}")
    moved = given.judged.get("embeddings")
    if moved is not None and moved > MOVED:
        what = f"another base: its token embeddings differ by {moved:.0%} of their size from the run's; {size}"
        return Verdict(WEIGHTS, "fault", what, "serve the base that the run was trained on, with its adapter")
    moves = {name: float(each["own"]) for name, each in others.items() if "own" in each}
    steps = {name: each for name, each in others.items() if "own" not in each}
    # What is served may be rounded too; whatever is further off than that is not this one either.
    near = 3 * moves["4-bit"] if moves else trained["mean"] / 10
    nearest = min(steps, key=lambda name: float(steps[name]["mean"]), default=None)
    if nearest is not None and steps[nearest]["mean"] <= min(near, trained["mean"] / 2):
        away = f"{steps[nearest]['mean']:.2g} nats from it, {trained['mean']:.2g} from the run's"
        if nearest == _BASE:
            return Verdict(WEIGHTS, "fault", f"{_BASE}, without what was trained: {away}", _SERVE)
        return Verdict(WEIGHTS, "fault", f"a stale model: that of {nearest}, {away}", _SERVE)
    return _by_rounding(given, moves, size + stored)


def _by_rounding(given: Comparison, moves: Mapping[str, float], size: str) -> Verdict:
    """Whether the difference is as large as rounding to 16, 8 or 4 bits makes it.

    Args:
        moves: how far rounding takes the run's own log-probabilities, in nats at the mean.
    """
    known = _BY_TYPE.get(given.file_type.upper(), "4-bit" if given.file_type else "")
    distance = float(given.judged["trained"]["mean"])
    offered = any(each.logps is not None for each in given.served)
    other = "other weights than the run's, those before training and its checkpoints: another adapter or another base"
    if not moves:
        return Verdict(WEIGHTS, "note", f"{size}; how far rounding would take them is not known", "")
    coarse = math.sqrt(max(moves["8-bit"], 1e-6) * max(moves["4-bit"], 1e-6))
    fine = "16-bit" if distance <= 2 * moves["16-bit"] else "8-bit"
    # Greedy choices alone say little of small differences: a token changes only where two are nearly as likely.
    within = {"32-bit": EXACT_NATS, "16-bit": 3 * max(moves["16-bit"], EXACT_NATS), "8-bit": coarse}
    if known in within and distance > max(within[known], coarse if not offered else 0.0):
        return Verdict(WEIGHTS, "fault", f"{other}; {size}, more than {known} rounding does", _SERVE)
    if distance > 3 * moves["4-bit"]:
        return Verdict(WEIGHTS, "fault", f"{other}; {size}, and rounding to 4 bits {moves['4-bit']:.2g}", _SERVE)
    if known == "4-bit" or distance > coarse:
        kind = f" to {given.mixture or given.file_type}" if known else ""
        what = f"quantised{kind}, as far off as by some 4 bits: {size}"
        return Verdict(WEIGHTS, "fault", what, "serve bf16 or q8_0, or take this knowingly")
    what = f"rounded{f' to {given.file_type}' if known else f', as by {fine} weights'}: {size}"
    return Verdict(WEIGHTS, "note" if (known or fine) != "32-bit" else "ok", what)
