"""Ollama: a GGUF file and a Modelfile, with a Go template where one writes the same as the model's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.core.text import shell_word
from ftcli.models.export.exporter import Exporter, Place, Trained
from ftcli.models.export.modelfile import NAME, Modelfile, written
from ftcli.models.export.ollama_template import go_template_of
from ftcli.models.exporters import gguf
from ftcli.models.templates.chat_template import chat_template


def _write(trained: Trained, plain: Path, place: Place) -> Sequence[str]:
    notes = list(gguf.write(trained, plain, place))
    found, file = go_template_of(trained.tokenizer, trained.ends), gguf.file_name(trained, place.kind)
    has = chat_template(trained.tokenizer) is not None
    if found is not None:
        note = f"TEMPLATE: {found.family}, the same text as the model's own template for {found.compared} conversations"
        notes = [each for each in notes if "stop string" not in each]  # PARAMETER stop does that
        notes.append(f"{note}; tools are not in it")
    elif has:
        note = "No TEMPLATE: none that is known writes what the model's own one writes."
        serve = f"llama-server --jinja -m {file} renders the model's own"
        notes.append(f"the Modelfile has no TEMPLATE, as none that is known writes what was trained: {serve}")
    else:
        note = "No TEMPLATE: the model was trained without one."
    said = Modelfile(f"./{file}", found.text if found else None, trained.ends)
    (place.into / NAME).write_text(written(said, note), encoding="utf-8")
    return notes


def _next(trained: Trained, folder: Path, kind: str) -> Sequence[str]:
    name = trained.title.lower()
    verify = trained.verified_at(folder / NAME)
    return (*verify, f"ollama create {name} -f {shell_word(str(folder / NAME))}", f"ollama run {name}")


EXPORTER = Exporter(
    summary="a GGUF file and the Modelfile for `ollama create`",
    types=("q8_0", *(kind for kind in gguf.TYPES if kind != "q8_0")),
    exact=True,
    check=gguf.check,
    write=_write,
    next_lines=_next,
    bytes_a_weight=gguf.EXPORTER.bytes_a_weight,
)
