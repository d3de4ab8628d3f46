"""What a GGUF, a Modelfile or a model folder says of template, tokenizer and end tokens, compared with a run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.build.verification import Verdict
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.untrusted import foreign_files
from ftcli.models import sources
from ftcli.models.export.gguf_header import MAGIC, GgufHeader
from ftcli.models.templates.chat_template import GENERATION, chat_template
from ftcli.models.templates.template_rendering import TemplateRejection, control_tokens, renderer
from ftcli.serving.deployed_modelfile import Modelfile
from ftcli.serving.parity import ENDS, TEMPLATE, TOKENIZER

GGUF, MODELFILE, FOLDER = "GGUF", "Modelfile", "folder"
EMBEDDINGS = "token_embd.weight"
_ENDS = ("eos", "eot", "eom")
About = Mapping[str, Any]


def kind_of(place: Path, where: str) -> str:
    """What a file or folder is.

    Raises:
        ConfigError: none of these.
    """
    if place.is_dir():
        if not ((place / "config.json").is_file() or sources.is_adapter_folder(place)):
            raise ConfigError(Problem(where, f"{place} holds no model", "name a folder with config.json and weights"))
        return FOLDER
    try:
        with open(place, "rb") as file:
            return GGUF if file.read(len(MAGIC)) == MAGIC else MODELFILE
    except OSError as error:
        fix = "name an address (http://…), a GGUF file, a Modelfile or a model folder"
        raise ConfigError(Problem(where, f"{place} cannot be read: {error.strerror}", fix)) from None


# --- GGUF -------------------------------------------------------------------------------------------------------------


def of_gguf(header: GgufHeader, about: About, questions: Sequence[Mapping[str, Any]]) -> Iterator[Verdict]:
    """Verdicts on a file's vocabulary, template and end tokens."""
    yield _vocabulary(header, about)
    yield _template(header, about, questions)
    ends = {int(number): name for number, name in about["ends"].items()}
    named = {kind: header.get(f"tokenizer.ggml.{kind}_token_id", int) for kind in _ENDS}
    wrong = {kind: number for kind, number in named.items() if number is not None and number not in ends}
    tokens = header.get("tokenizer.ggml.tokens", list) or []
    if about["end"] not in named.values():
        told = ", ".join(f"{kind} {_token(tokens, number)}" for kind, number in named.items() if number is not None)
        what = f"it names {told or 'no end token'}, and answers of the run end at {ends.get(about['end'], 'none')}"
        yield Verdict(ENDS, "fault", what, "export the run again, with its generation_config.json")
    elif wrong:
        told = ", ".join(f"{kind} {_token(tokens, number)}" for kind, number in wrong.items())
        yield Verdict(ENDS, "note", f"it ends answers also at {told}, which the run does not")
    else:
        yield Verdict(ENDS, "ok", f"it names {ends[about['end']]}, at which answers of the run end")


def _token(tokens: Sequence[Any], number: int | None) -> str:
    return str(tokens[number]) if number is not None and 0 <= number < len(tokens) else str(number)


def _vocabulary(header: GgufHeader, about: About) -> Verdict:
    theirs, own = header.get("tokenizer.ggml.tokens", list) or [], about["tokens"] or []
    if not theirs:
        return Verdict(TOKENIZER, "fault", "it has no vocabulary", "export the run again, tokenizer and all")
    differ = [i for i, token in enumerate(own) if i >= len(theirs) or theirs[i] != token]
    if header.get("tokenizer.ggml.model", str) != "gpt2":
        if len(theirs) < len(own):
            what = f"it has {len(theirs)} tokens, and the run {len(own)}"
            return Verdict(TOKENIZER, "fault", what, "export the run again, tokenizer and all")
        what = f"{len(theirs)} tokens, written otherwise than in tokenizer.json: not compared"
        return Verdict(TOKENIZER, "note", what)
    if differ:
        first = differ[0]
        what = f"{len(differ)} of {len(own)} tokens are others, first {first}: {own[first]!r} in training"
        what += f", {theirs[first]!r} served" if first < len(theirs) else ", none served"
        return Verdict(TOKENIZER, "fault", what, "export the run again, tokenizer and all")
    return Verdict(TOKENIZER, "ok", f"its {len(own)} tokens are those of the run")


def _template(header: GgufHeader, about: About, questions: Sequence[Mapping[str, Any]]) -> Verdict:
    theirs = header.get("tokenizer.chat_template", str)
    if theirs == about["template"]:
        return Verdict(TEMPLATE, "ok", "that of the run" if theirs else "none, as in the run")
    if not theirs or not about["template"]:
        what = "it has none, and the run has one" if about["template"] else "it has one, and the run has none"
        return Verdict(TEMPLATE, "fault", what, "export the run again, with its chat_template.jinja")
    tokens = header.get("tokenizer.ggml.tokens", list) or []
    special = {
        f"{kind}_token": _token(tokens, number)
        for kind in ("bos", "eos", "padding", "unknown")
        if (number := header.get(f"tokenizer.ggml.{kind}_token_id", int)) is not None
    }
    return _rendered(theirs, special, questions, "it has another one than the run")


def _rendered(template: str, special: Mapping[str, str], questions: Sequence[Mapping[str, Any]], what: str) -> Verdict:
    """Whether another template renders the prompts as they were in training."""
    render, turns = renderer(template, None), [each for each in questions if "messages" in each["request"]]
    try:
        for each in turns:
            request = each["request"]
            given = {**special, **(request.get("chat_template_kwargs") or {})}
            text = render(request["messages"], request.get("tools"), opened=True, variables=given)
            if text != each["text"]:
                at = next((i for i, (a, b) in enumerate(zip(text, each["text"], strict=False)) if a != b), 0)
                ours, theirs = (repr(one[max(0, at - 8) : at + 24]) for one in (each["text"], text))
                told = f"{what}, and it renders prompts otherwise: {ours} in training, {theirs} served"
                return Verdict(TEMPLATE, "fault", told, "serve the chat_template.jinja of the run")
    except TemplateRejection as rejection:
        told = f"{what}, and it rejects prompts of the run: {rejection}"
        return Verdict(TEMPLATE, "fault", told, "serve the chat_template.jinja of the run")
    return Verdict(TEMPLATE, "ok", f"{what}, which renders all {len(turns)} prompts alike")


# --- Modelfile --------------------------------------------------------------------------------------------------------


def of_modelfile(given: Modelfile, about: About, folder: Path) -> Iterator[Verdict]:
    """Verdicts on what Ollama adds to the file that it serves."""
    ends = list(about["ends"].values())
    if stops := given.parameters.get("stop"):
        if strange := [each for each in stops if each not in ends and not _opens_turn(each, about)]:
            what = f"PARAMETER stop {strange[0]!r} ends answers where the run's go on"
            yield Verdict(ENDS, "fault", what, "remove it")
        elif (end := about["ends"].get(str(about["end"]))) not in stops:
            yield Verdict(ENDS, "note", f"{end} is no stop word of it: the end token of its GGUF has to end answers")
        else:
            yield Verdict(ENDS, "ok", f"its stop words are tokens at which answers of the run end: {', '.join(stops)}")
    if given.system is not None:
        what = f"a system message is added that the run's prompts may not have: {given.system!r}"
        yield Verdict(TEMPLATE, "note", what)
    if given.template is None:
        if about["template"]:
            what = "it has none: Ollama writes its own for the families that it knows, else the bare prompt"
            yield Verdict(TEMPLATE, "note", what, "compare the running model: --at http://127.0.0.1:11434 --as NAME")
        return
    own = about["template"]
    missing = [token for token in control_tokens(own, folder) if token not in given.template] if own else []
    begins = (about.get("bos") or {}).get("text")
    # The BOS token is added by llama.cpp, and a template of Ollama's leaves it out.
    if missing := [token for token in missing if token != begins]:
        what = f"TEMPLATE does not write {', '.join(missing)}, which prompts of the run have"
        yield Verdict(TEMPLATE, "fault", what, "export the run again, or write its template anew")
    elif own and begins and begins in given.template:
        what = f"TEMPLATE writes the BOS token {begins}, which Ollama adds too: it would be there twice"
        yield Verdict(TEMPLATE, "fault", what, f"remove {begins} from TEMPLATE")
    else:
        what = "TEMPLATE writes the control tokens of the run's; Go's templates are not rendered here"
        yield Verdict(TEMPLATE, "note", what, "compare the running model: --at http://127.0.0.1:11434 --as NAME")


def _opens_turn(word: str, about: About) -> bool:
    """Whether a stop word is a token that opens a turn, which no answer holds."""
    return word.startswith("<") and word in (about["template"] or "")


# --- a folder ---------------------------------------------------------------------------------------------------------


def of_folder(folder: Path, about: About) -> Iterator[Verdict]:
    """Verdicts on the files of a model folder."""
    theirs = chat_template(folder)
    if theirs == about["template"]:
        yield Verdict(TEMPLATE, "ok", "that of the run" if theirs else "none, as in the run")
    elif not theirs:
        yield Verdict(TEMPLATE, "fault", "it has none, and the run has one", "copy the run's chat_template.jinja there")
    else:
        what = "it is written otherwise than the run's; the prompts tell whether it renders alike"
        yield Verdict(TEMPLATE, "note", what)
    ends = {int(number): name for number, name in about["ends"].items()}
    found = _json(folder / GENERATION).get("eos_token_id")
    named = found if isinstance(found, list) else [] if found is None else [found]
    if about["end"] is not None and about["end"] not in named:
        told = ", ".join(map(str, named)) or "none"
        what = f"{GENERATION} names {told}, and answers of the run end at {ends.get(about['end'])} ({about['end']})"
        yield Verdict(ENDS, "fault", what, f"copy the run's {GENERATION} there")


def file_type(folder: Path) -> str:
    """How the weights of a folder are stored, as its config.json says; "" where it does not."""
    config = _json(folder / "config.json")
    quantised = config.get("quantization_config")
    if isinstance(quantised, dict):
        bits = "8-bit" if quantised.get("load_in_8bit") or quantised.get("bits") == 8 else "4-bit"
        return "Q8_0" if bits == "8-bit" else f"{quantised.get('quant_method', 'quantised')} 4-bit"
    named = str(config.get("dtype") or config.get("torch_dtype") or "")
    return {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}.get(named, "")


def _json(file: Path) -> dict[str, Any]:
    try:
        found = foreign_files.read_json(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
