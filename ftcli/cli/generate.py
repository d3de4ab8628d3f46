"""`ftcli generate MODEL`: answers to prompts from arguments, a file, or standard input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.cli import arguments, output
from ftcli.core.errors import EXIT_DONE, ConfigError, Problem
from ftcli.launch.worker_request import WorkerFailed, answers
from ftcli.models import sources
from ftcli.runs import rundir

SUMMARY = "answers of a run or a model to prompts from arguments, a file or stdin"
ORDER = 90


def add_generation(parser: argparse.ArgumentParser) -> None:
    """What generate and chat share: the model and how it samples."""
    parser.add_argument("model", help="a run (directory or name), a model folder, builtin:tiny, or a cached hub id")
    parser.add_argument("--base", action="store_true", help="also what the model said before it was trained")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="RUN",
        help="a run or adapter folder to put on MODEL; several are swapped by name (in chat: /adapter NAME)",
    )
    parser.add_argument("--system", help="system message")
    add_sampling(parser, temperature=0.0)
    arguments.add_trust(parser)


def add_sampling(parser: argparse.ArgumentParser, *, temperature: float) -> None:
    """How answers are sampled."""
    likeliest = f"0 takes the likeliest token each time ({temperature:g})"
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer (256)")
    parser.add_argument("--temperature", type=float, default=temperature, help=likeliest)
    parser.add_argument("--top-p", type=float, default=1.0, help="share of probability sampled from (1.0)")
    parser.add_argument("--seed", type=int, default=42, help="seed of the sampling (42)")


def check_model(name: str, where: str, head: str = "causal_lm") -> None:
    """That there is such a model, before a worker starts for it.

    Args:
        head: what it has to put out: words, or a score.

    Raises:
        ConfigError: there is none, or it puts out something else.
    """
    source = sources.model_source(name)
    if source is None:
        raise ConfigError(Problem(where, f"{name} holds no model", "name a finished run, a folder or a hub id"))
    if source.hub_id is not None:
        from ftcli.models.availability import require

        require(source.hub_id, None, where)
    elif source.folder is not None and sources.head_of(source.folder) != head:
        if head == "causal_lm":
            what, fix = f"{name} is a reward model: it puts out a score and no words", f"ftcli score {name} ROWS"
        else:
            what, fix = f"{name} puts out words and no score", "name a model that method=reward trained"
        raise ConfigError(Problem(where, what, fix))


def check_generation(options: argparse.Namespace, where: str) -> None:
    """That the model is there and samples as it can.

    Raises:
        ConfigError: no such model, or a sampling value out of range.
    """
    check_model(options.model, where)
    limits = {"--max-new-tokens": (options.max_new_tokens, 1, 2**20), "--temperature": (options.temperature, 0, 100)}
    for flag, (value, low, high) in {**limits, "--top-p": (options.top_p, 1e-6, 1)}.items():
        if not low <= value <= high:
            raise ConfigError(Problem(f"{flag} {value}", "is out of range", f"from {low} to {high}"))


def request(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """The worker's request.

    Raises:
        ConfigError: no such model, or a sampling value out of range.
    """
    where = f"ftcli {command} {options.model}"
    check_generation(options, where)
    asked = {"adapters": adapters(options.adapter, options.model, where)} if options.adapter else {}
    if asked and options.base:
        what = "--base and --adapter are both given"
        raise ConfigError(Problem(where, what, "leave --base out: the base is /adapter none"))
    names = ("model", "base", "system", "max_new_tokens", "temperature", "top_p", "seed", "trust_remote_code")
    return {**{name: getattr(options, name) for name in names}, **asked}


def adapters(given: Sequence[str], model: str, where: str) -> dict[str, str]:
    """The folder of each adapter, by the run's name or its folder's.

    Raises:
        ConfigError: no adapter, one of another base, or two of one name.
    """
    found: dict[str, str] = {}
    base = sources.model_source(model)
    for name in given:
        source = sources.model_source(name)
        if source is None or not source.is_adapter or source.folder is None:
            raise ConfigError(
                Problem(where, f"{name} holds no adapter", "name a run that trained one  (ftcli list adapter)")
            )
        below = sources.model_source(sources.base_of(source.folder))
        if below != base:
            own = below.location if below else "nothing that is here"
            raise ConfigError(Problem(where, f"{name} was trained on {own}, not on {model}", f"ftcli chat {name}"))
        word = Path(name).name if Path(name).name != rundir.MODEL else Path(name).parent.name
        if word in found:
            raise ConfigError(Problem(where, f"two adapters are called {word}", "copy one under another name"))
        found[word] = str(source.folder)
    return found


def run(argv: Sequence[str]) -> int:
    """Answer every prompt, a JSON line each with --json."""
    parser = arguments.parser("generate", __doc__ or "")
    add_generation(parser)
    parser.add_argument("prompts", nargs="*", help="prompts; without any, one a line from --file or stdin")
    parser.add_argument("--file", type=Path, help="text file with one prompt a line")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    asked = {**request(options, "generate"), "prompts": options.prompts or _lines(options.file)}
    try:
        for answer in answers("generate", asked):
            if options.json:
                output.line(answer)
            else:
                _print(answer)
    except WorkerFailed as failed:
        return failed.code
    return EXIT_DONE


def _lines(file: Path | None) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8") if file else sys.stdin.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(Problem(f"--file {file}", f"cannot be read: {error}", "name a UTF-8 text file")) from None
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise ConfigError(
            Problem("ftcli generate", "was given no prompt", "add one as an argument, --file or on stdin")
        )
    return prompts


def _print(answer: dict[str, Any]) -> None:
    print(f"> {answer['prompt']}")
    labels = {"answer": "after" if "before" in answer else ""}
    columns = {labels.get(name, name): text for name, text in answer.items() if name != "prompt"}
    width = max(map(len, columns))
    for label, text in columns.items():
        print(f"{label:<{width}}  {text}" if width else text)
    print(flush=True)
