"""The formats: one function from row to example each, and the table of them all.

A function leaves out the system text, the history and the tools, which context.py adds to every example. To add a
format, write its function and its entry in FORMATS.
"""

from __future__ import annotations

from ftcli.data.files.describe import describe_value
from ftcli.data.formats import ranked
from ftcli.data.formats.columns import (
    CONVERSATION,
    FROM_TURNS,
    LABEL,
    LABELS,
    LABELS_BY_VALUE,
    ONE_ANSWER,
    ROLE_TURNS,
    TEXT,
    TEXT_OR_TURNS,
    TURNS,
    Converter,
    Example,
    Format,
    LabelNeed,
    Need,
    Shape,
    column,
)
from ftcli.data.formats.common_prefix import check_prompt, split_conversations, split_texts
from ftcli.data.formats.conversations import (
    FieldFault,
    Roles,
    Turn,
    answer,
    check_answer,
    check_trained,
    only_read,
    spoken,
    text,
    tools,
    turns,
)
from ftcli.data.formats.row_fields import (
    ANSWERS,
    CHOSEN,
    CONVERSATIONS,
    INPUT,
    INSTRUCTIONS,
    QUESTIONS,
    REJECTED,
    Fields,
    label_of,
    prompt_of,
    question_of,
    value_of,
)

OUTPUTS = ("output", "response", "answer")
"""Columns of the answer to an instruction."""
PROMPTS = ("prompt", "instruction", *QUESTIONS)
COMPLETIONS = ("completion", *ANSWERS)
OPENAI_SIDES = ("preferred_output", "non_preferred_output")


def from_text(row: Fields, roles: Roles) -> Example:
    """{"text"}: all of it is trained."""
    return {"text": text(value_of(row, ("text",))[1], "text")}


def from_pair(row: Fields, roles: Roles) -> Example:
    """{"prompt", "completion"} as text or turns; text beside turns becomes a turn."""
    return _pair(row, roles, weighted=True)


def _pair(row: Fields, roles: Roles, *, weighted: bool) -> Example:
    prompt, completion = value_of(row, ("prompt",))[1], value_of(row, ("completion",))[1]
    if isinstance(prompt, str) and isinstance(completion, str):
        return {"prompt": text(prompt, "prompt"), "completion": text(completion, "completion")}
    return {
        "prompt": prompt_of(prompt, "prompt", roles),
        "completion": answer(completion, "completion", roles, weighted=weighted),
    }


def from_question(row: Fields, roles: Roles) -> Example:
    """A question and its answer under their usual names: a user turn and an assistant turn."""
    name, given = value_of(row, ANSWERS)
    return {"prompt": question_of(row, value_of(row, QUESTIONS)[0]), "completion": _answered(text(given, name))}


def from_alpaca(row: Fields, roles: Roles) -> Example:
    """An instruction, with the input on the next line if there is one, and its output."""
    name = column(row, OUTPUTS) or value_of(row, OUTPUTS[:1])[0]  # a row without one lacks the first of them
    return {"prompt": question_of(row, "instruction"), "completion": _answered(text(row[name], name))}


def _answered(said: str) -> list[Turn]:
    return [{"role": "assistant", "content": said}]


def from_conversation(row: Fields, roles: Roles) -> Example:
    """Turns in OpenAI's or ShareGPT's format."""
    name, given = value_of(row, CONVERSATIONS)
    return {"messages": check_trained(turns(given, name, roles), name)}


def from_preference(row: Fields, roles: Roles) -> Example:
    """Chosen and rejected answers to a prompt, or whole texts or conversations whose common beginning is the prompt."""
    (name, chosen), (other, rejected), prompt = value_of(row, CHOSEN), value_of(row, REJECTED), row.get("prompt")
    if isinstance(chosen, str) != isinstance(rejected, str):
        what = f"{name} is {describe_value(chosen)} but {other} is {describe_value(rejected)}"
        raise FieldFault(what, "write both the same way", other)
    if isinstance(chosen, str) and (prompt is None or isinstance(prompt, str)):
        sides = {"chosen": text(chosen, name), "rejected": text(rejected, other)}
        return split_texts(**sides) if prompt is None else {"prompt": text(prompt, "prompt"), **sides}
    ours, theirs = spoken(chosen, name, "assistant", roles), spoken(rejected, other, "assistant", roles)
    asked = [] if prompt is None else prompt_of(prompt, "prompt", roles)
    shared = 0
    if asked and ours[0]["role"] == "assistant":
        example = {"prompt": asked, "chosen": ours, "rejected": theirs}
    else:
        example = split_conversations(ours, theirs)
        check_prompt(asked, example["prompt"])
        shared = len(example["prompt"])
    for side, field, given in (("chosen", name, chosen), ("rejected", other, rejected)):
        check_answer(example[side], field, shared if isinstance(given, list) else None)
    return example


def from_conversation_preference(row: Fields, roles: Roles) -> Example:
    """A conversation and two ways to continue it."""
    name, given = value_of(row, CONVERSATIONS)
    prompt = only_read(turns(given, name, roles))
    if prompt[-1]["role"] == "assistant":
        what = f"{name} ends with an assistant turn, before chosen and rejected"
        raise FieldFault(what, "end it with the prompt", f"{name}[{len(row[name]) - 1}]")
    return {"prompt": prompt, "chosen": _side(row, CHOSEN, roles), "rejected": _side(row, REJECTED, roles)}


def from_conversation_and_rejected(row: Fields, roles: Roles) -> Example:
    """A conversation whose last answer is the chosen one, and a rejected answer or a whole rejected conversation."""
    name, given = value_of(row, CONVERSATIONS)
    ours, (other, rejected) = turns(given, name, roles), value_of(row, REJECTED)
    if ours[-1]["role"] != "assistant" or len(ours) == 1:
        what = f"{name} does not end with a prompt and its answer, which would be the chosen one"
        raise FieldFault(what, "end it with the chosen answer", f"{name}[{len(ours) - 1}]")
    theirs = spoken(rejected, other, "assistant", roles)
    if theirs[0]["role"] == "assistant":
        prompt, chosen, shared = only_read(ours[:-1]), ours[-1:], 0
    else:
        example = split_conversations(ours, theirs)
        prompt, chosen, theirs = example["prompt"], example["chosen"], example["rejected"]
        shared = len(prompt)
    check_answer(chosen, name, len(prompt))
    check_answer(theirs, other, shared if isinstance(rejected, list) else None)
    return {"prompt": prompt, "chosen": chosen, "rejected": theirs}


def from_pair_and_rejected(row: Fields, roles: Roles) -> Example:
    """A prompt, its answer, which is the chosen one, and a rejected answer."""
    asked, _ = value_of(row, PROMPTS)
    (name, chosen), (other, rejected) = value_of(row, COMPLETIONS), value_of(row, REJECTED)
    if asked == "prompt" and all(isinstance(given, str) for given in (row[asked], chosen, rejected)):
        return {"prompt": text(row[asked], asked), "chosen": text(chosen, name), "rejected": text(rejected, other)}
    prompt = prompt_of(row[asked], asked, roles) if asked == "prompt" else question_of(row, asked)
    return {"prompt": prompt, "chosen": answer(chosen, name, roles), "rejected": answer(rejected, other, roles)}


def from_openai_preference(row: Fields, roles: Roles) -> Example:
    """OpenAI's preference rows: an input with messages and tools, a preferred and a non-preferred output."""
    given = row["input"]
    sides = {side: _side(row, (name,), roles) for side, name in zip(("chosen", "rejected"), OPENAI_SIDES, strict=True)}
    example = {"prompt": only_read(turns(given.get("messages"), "input.messages", roles)), **sides}
    declared = tools(given.get("tools"), "input.tools")
    return {**example, "tools": declared} if declared else example


def from_instruction_preference(row: Fields, roles: Roles) -> Example:
    """An instruction, with an input if there is one, and two answers."""
    prompt = question_of(row, value_of(row, INSTRUCTIONS)[0])
    return {"prompt": prompt, "chosen": _side(row, CHOSEN, roles), "rejected": _side(row, REJECTED, roles)}


def _side(row: Fields, names: tuple[str, ...], roles: Roles) -> list[Turn]:
    """One of two answers, as turns."""
    name, given = value_of(row, names)
    return answer(given, name, roles)


def from_labelled_pair(row: Fields, roles: Roles) -> Example:
    """{"prompt", "completion"} with a label: whether the answer is good."""
    return {**_pair(row, roles, weighted=False), "label": label_of(row)}


def from_labelled_question(row: Fields, roles: Roles) -> Example:
    """A question, its answer and a label."""
    return {**from_question(row, roles), "label": label_of(row)}


def from_labelled_alpaca(row: Fields, roles: Roles) -> Example:
    """Instruction, output and a label."""
    return {**from_alpaca(row, roles), "label": label_of(row)}


def from_labelled_conversation(row: Fields, roles: Roles) -> Example:
    """A conversation with a label for its last turn, which must be the assistant's."""
    name, given = value_of(row, CONVERSATIONS)
    messages = turns(given, name, roles)
    last = len(row[name]) - 1
    if messages[-1]["role"] != "assistant":
        what = f"{name} ends with a {messages[-1]['role']} turn"
        raise FieldFault(what, "end it with the labelled answer", f"{name}[{last}]")
    if len(messages) == 1:
        raise FieldFault(f"{name} has no turn before the answer", "start with the prompt", name)
    judged = check_answer(messages[-1:], name, last)
    return {"prompt": only_read(messages[:-1]), "completion": judged, "label": label_of(row)}


def from_prompt(row: Fields, roles: Roles) -> Example:
    """A prompt to answer; other columns (such as a solution) are kept for scoring the answer."""
    _, prompt = value_of(row, ("prompt",))
    asked = text(prompt, "prompt") if isinstance(prompt, str) else prompt_of(prompt, "prompt", roles)
    return {**row, "prompt": asked}


# --- the table: specific before general -----------------------------------------------------------------------------

_TWO_ANSWERS = (Need(CHOSEN, ONE_ANSWER), Need(REJECTED, ONE_ANSWER))
_TWO_TEXTS = (Need(CHOSEN, TEXT), Need(REJECTED, TEXT))
_TWO_CONVERSATIONS = (Need(CHOSEN, CONVERSATION), Need(REJECTED, CONVERSATION))
_REJECTED = Need(REJECTED, TEXT_OR_TURNS)
_JUDGED = LabelNeed((*LABELS, *LABELS_BY_VALUE), LABEL)
_PAIR = (Need(("prompt",), TEXT_OR_TURNS), Need(("completion",), TEXT_OR_TURNS))
_ALPACA = (Need(("instruction",), TEXT), Need(OUTPUTS, TEXT))
_ASKED = (Need(QUESTIONS, TEXT), Need(ANSWERS, TEXT))
_CONVERSATION = Need(CONVERSATIONS, TURNS)
_OPENAI_INPUT = Shape("an object with messages", lambda value: isinstance(value, dict) and "messages" in value, True)
_OPENAI = tuple(Need((name,), ONE_ANSWER) for name in OPENAI_SIDES)


def _format(name: str, kind: str, function: Converter, *needs: Need, optional: tuple[str, ...] = ()) -> Format:
    return Format(name, kind, str(function.__doc__), needs, optional, function)


FORMATS: dict[str, Format] = {
    fmt.name: fmt
    for fmt in (
        _format("sharegpt_preference", "preference", from_conversation_preference, _CONVERSATION, *_TWO_ANSWERS),
        _format(
            "alpaca_preference",
            "preference",
            from_instruction_preference,
            Need(INSTRUCTIONS, TEXT),
            *_TWO_ANSWERS,
            optional=(INPUT,),
        ),
        _format("preference_messages", "preference", from_preference, *_TWO_CONVERSATIONS, optional=("prompt",)),
        _format("preference_text", "preference", from_preference, *_TWO_TEXTS, optional=("prompt",)),
        _format(
            "openai_preference",
            "preference",
            from_openai_preference,
            Need(("input",), _OPENAI_INPUT),
            *_OPENAI,
        ),
        _format("messages_rejected", "preference", from_conversation_and_rejected, _CONVERSATION, _REJECTED),
        _format(
            "pair_rejected",
            "preference",
            from_pair_and_rejected,
            Need(PROMPTS, TEXT_OR_TURNS),
            Need(COMPLETIONS, TEXT_OR_TURNS),
            _REJECTED,
            optional=(INPUT,),
        ),
        _format("labelled_messages", "label", from_labelled_conversation, _CONVERSATION, _JUDGED),
        _format("labelled", "label", from_labelled_pair, *_PAIR, _JUDGED),
        _format("labelled_alpaca", "label", from_labelled_alpaca, *_ALPACA, _JUDGED, optional=(INPUT,)),
        _format(
            "labelled_query_response",
            "label",
            from_labelled_question,
            *_ASKED,
            _JUDGED,
            optional=(INPUT,),
        ),
        _format(
            "ranked_messages",
            "preference",
            ranked.from_ranked_conversation,
            ranked.QUESTION_TURNS,
            ranked.ANSWER_LIST,
            optional=ranked.RANKINGS,
        ),
        _format("messages", "messages", from_conversation, Need(CONVERSATIONS, ROLE_TURNS)),
        _format("sharegpt", "messages", from_conversation, Need(CONVERSATIONS, FROM_TURNS)),
        _format("alpaca", "pair", from_alpaca, *_ALPACA, optional=(INPUT,)),
        _format("prompt_completion", "pair", from_pair, *_PAIR),
        _format("query_response", "pair", from_question, *_ASKED, optional=(INPUT,)),
        _format("text", "text", from_text, Need(("text",), TEXT)),
        _format(
            "ranked_alpaca",
            "preference",
            ranked.from_ranked_alpaca,
            ranked.INSTRUCTION,
            ranked.ANSWER_LIST_OR_OUTPUT,
            optional=(INPUT, *ranked.RANKINGS),
        ),
        _format(
            "ranked",
            "preference",
            ranked.from_ranked,
            Need(("prompt",), TEXT_OR_TURNS),
            ranked.ANSWER_LIST,
            optional=ranked.RANKINGS,
        ),
        _format("prompt", "prompt", from_prompt, Need(("prompt",), TEXT_OR_TURNS)),
    )
}
"""Every format by name, in the order in which they are tried."""
