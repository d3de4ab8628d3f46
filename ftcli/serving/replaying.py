"""Replaying a run's prompts through what is served: a server, a GGUF, a Modelfile or a folder, and comparing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ftcli.build.verification import Verdict
from ftcli.core.errors import ConfigError, Problem
from ftcli.endpoints import llama_server
from ftcli.endpoints.address import Address
from ftcli.launch.worker_request import WorkerFailed, exit_code, started
from ftcli.models.export.gguf_header import GgufHeader, gguf_header
from ftcli.runs import rundir
from ftcli.serving import served_files
from ftcli.serving.deployed_modelfile import Modelfile, parsed
from ftcli.serving.parity import WEIGHTS, Comparison, verdicts
from ftcli.serving.served_files import EMBEDDINGS, FOLDER, GGUF
from ftcli.serving.stacks import Served, Stack, stack_at

SERVER = "server"


@dataclass(frozen=True, kw_only=True)
class Target:
    """What is compared with a run."""

    kind: str
    place: str
    address: Address | None = None
    name: str | None = None
    """By which a server is asked."""
    header: GgufHeader | None = None
    file: Path | None = None
    """The GGUF file."""
    modelfile: Modelfile | None = None


def target_of(typed: str, where: str, *, name: str | None, key: str | None, granted: bool) -> Target:
    """What --at names.

    Args:
        name: by which a server is asked, or None.
        key: an API key, or None.
        granted: whether a Modelfile may name a file outside of its folder.

    Raises:
        ConfigError: nothing of these kinds, or it cannot be read.
    """
    if typed.startswith(("http://", "https://")):
        return Target(kind=SERVER, place=typed, address=Address.of(typed, where, key), name=name)
    if name is not None or key is not None:
        flag = "--as" if name is not None else "--key-env"
        raise ConfigError(Problem(where, f"{flag} has no effect: {typed} is no address", f"leave {flag} out"))
    place = Path(typed)
    kind = served_files.kind_of(place, where)
    if kind == FOLDER:
        return Target(kind=kind, place=typed)
    modelfile = None if kind == GGUF else parsed(place)
    file = place if modelfile is None else modelfile.gguf(granted=granted)
    if file is None:
        what = f"is from {modelfile.source if modelfile else typed}, which is no file beside it"
        fix = "compare the running model: --at http://127.0.0.1:11434 --as NAME"
        raise ConfigError(Problem(typed, what, fix))
    return Target(kind=kind, place=typed, file=file, header=gguf_header(file), modelfile=modelfile)


def compared(run: Path, target: Target, request: Mapping[str, Any]) -> Iterator[Verdict]:
    """A verdict on each part of what is served.

    Args:
        request: {"rows", "max_new_tokens", "data", "trust_remote_code"}.

    Raises:
        ConfigError: the server does not answer, or the run has no prompts.
        WorkerFailed: the run's model cannot be loaded; the worker said why.
    """
    with ExitStack() as opened:
        stack = _stack(target, opened)
        folder = str(Path(target.place).resolve()) if target.kind == FOLDER else None
        own = {**request, "run": str(run), "folder": folder, "tokens": target.header is not None}
        streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = opened.enter_context(started("replay", own, **streams))
        about, questions, answers = _own_side(process)
        yield from _static(target, run, about, questions)
        if stack is not None:
            served = [stack.ask(each["request"], int(request["max_new_tokens"])) for each in questions]
            place = _embeddings(target)
            _tell(process, {"served": [each.to_json() for each in served], "embeddings": place})
        elif answers is not None:
            served = [Served(**each) for each in answers]
        else:
            what = f"answers and weights are not compared: llama.cpp is not installed ({llama_server.REMEDY})"
            yield Verdict(WEIGHTS, "note", what)
            _ended(process)
            return
        judged = _line(process)
        _ended(process)
        stored, mixture = _file_type(target, stack), target.header.mixture if target.header is not None else ""
        given = Comparison(
            about=about, questions=questions, served=served, judged=judged, file_type=stored, mixture=mixture
        )
        yield from verdicts(given)


def _stack(target: Target, opened: ExitStack) -> Stack | None:
    """The server to ask; one is started for a file."""
    if target.address is not None:
        return stack_at(target.address, target.name)
    if target.file is None or not llama_server.is_installed():
        return None
    return stack_at(opened.enter_context(llama_server.serving(target.file)), None)


def _own_side(process: subprocess.Popen[str]) -> tuple[dict[str, Any], list[dict[str, Any]], list[Any] | None]:
    """What the worker says of the run: about it, its questions, and the answers of a folder."""
    about, questions = _line(process), []
    while (said := _line(process))["kind"] == "question":
        questions.append(said)
    return about, questions, said.get("answers")


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise WorkerFailed(exit_code(process))
    found: dict[str, Any] = json.loads(line)
    return found


def _ended(process: subprocess.Popen[str]) -> None:
    """Let the worker end by itself, which it does once it has nothing more to read."""
    assert process.stdin is not None
    process.stdin.close()
    if code := exit_code(process):
        raise WorkerFailed(code)


def _tell(process: subprocess.Popen[str], reply: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    process.stdin.write(json.dumps(reply) + "\n")
    process.stdin.flush()


def _static(target: Target, run: Path, about: Mapping[str, Any], questions: list[dict[str, Any]]) -> Iterator[Verdict]:
    """What the files say, before anything is asked."""
    if target.modelfile is not None:
        yield from served_files.of_modelfile(target.modelfile, about, run / rundir.MODEL)
    if target.header is not None:
        yield from served_files.of_gguf(target.header, about, questions)
    if target.kind == FOLDER:
        yield from served_files.of_folder(Path(target.place), about)


def _embeddings(target: Target) -> dict[str, Any] | None:
    found = target.header.tensors.get(EMBEDDINGS) if target.header else None
    if found is None:
        return None
    return {"file": str(Path(str(target.file)).resolve()), "offset": found.offset, "type": found.type}


def _file_type(target: Target, stack: Stack | None) -> str:
    """How the served weights are stored, as far as that is said."""
    if target.header is not None:
        return target.header.weight_type
    if target.kind == FOLDER:
        return served_files.file_type(Path(target.place))
    said = str((stack.facts if stack else {}).get("file_type") or "")
    return said.removeprefix("all ").partition(" ")[0] if said.startswith("all ") else said.partition(" ")[0]
