"""`ftcli generate MODEL`: answer prompts from arguments, a file, or standard input."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ftcli.cli import arguments, output
from ftcli.cli.jobs.answer_file import AnswerFile
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.launch.worker_request import WorkerFailed, answers
from ftcli.models import sources
from ftcli.runs import provenance, rundir

BATCH = 16
SUMMARY = "answer prompts from arguments, a file or stdin with a run or a model"
ORDER = 90


def add_generation(parser: argparse.ArgumentParser) -> None:
    """Add what generate and chat share: the model and its sampling."""
    parser.add_argument("model", help="a run (directory or name), a model folder, builtin:tiny, or a cached hub id")
    parser.add_argument("--base", action="store_true", help="also show the answers of the model before training")
    parser.add_argument(
        "--adapter",
        action="append",
        default=[],
        metavar="RUN",
        help="a run or adapter folder to load on MODEL; several can be switched by name (in chat: /adapter NAME)",
    )
    parser.add_argument("--system", help="system message")
    add_sampling(parser, temperature=0.0)
    arguments.add_trust(parser)


def add_sampling(parser: argparse.ArgumentParser, *, temperature: float) -> None:
    """Add the sampling flags."""
    described = f"sampling temperature; 0 decodes greedily ({temperature:g})"
    parser.add_argument("--max-new-tokens", type=int, default=256, help="longest answer, in tokens (256)")
    parser.add_argument("--temperature", type=float, default=temperature, help=described)
    parser.add_argument("--top-p", type=float, default=1.0, help="probability mass of nucleus sampling (1.0)")
    parser.add_argument("--seed", type=int, default=42, help="sampling seed (42)")


def check_model(name: str, where: str, head: str = "causal_lm") -> None:
    """Check that a model exists and has the right head, before a worker starts for it.

    Args:
        head: "causal_lm" or "reward_model".

    Raises:
        ConfigError: there is no such model, or it has the other head.
    """
    source = sources.model_source(name)
    if source is None:
        raise ConfigError(Problem(where, f"{name} holds no model", "name a finished run, a folder or a hub id"))
    require_sound_run(name)
    if source.hub_id is not None:
        from ftcli.models.availability import require

        require(source.hub_id, None, where)
    elif source.folder is not None and sources.head_of(source.folder) != head:
        if head == "causal_lm":
            what, fix = f"{name} is a reward model, not a causal LM", f"ftcli score {shell_word(name)} ROWS"
        else:
            what, fix = f"{name} is a causal LM, not a reward model", "name a model trained with method=reward"
        raise ConfigError(Problem(where, what, fix))


def require_sound_run(name: str) -> None:
    """Check the spec of the run that a model's name refers to, if it is one: how it is loaded and asked stands there.

    Raises:
        ConfigError: every problem in it.
    """
    run = rundir.find_run(name)
    if run is not None:
        from ftcli.build import gate  # only here: a model of any other kind needs none of the checks

        gate.opened(run)


def check_generation(options: argparse.Namespace, where: str) -> None:
    """Check the model and the sampling flags.

    Raises:
        ConfigError: there is no such model, or a sampling value is out of range.
    """
    check_model(options.model, where)
    limits = {"--max-new-tokens": (options.max_new_tokens, 1, 2**20), "--temperature": (options.temperature, 0, 100)}
    for flag, (value, low, high) in {**limits, "--top-p": (options.top_p, 1e-6, 1)}.items():
        if not low <= value <= high:
            raise ConfigError(Problem(f"{flag} {value}", "is out of range", f"from {low} to {high}"))
    if not is_text(getattr(options, "system", None) or ""):  # of which `sample` has none
        raise ConfigError(Problem("--system", "is not UTF-8", "give text in UTF-8"))


def request(options: argparse.Namespace, command: str) -> dict[str, Any]:
    """The request to the worker.

    Raises:
        ConfigError: there is no such model, or a sampling value is out of range.
    """
    where = f"ftcli {command} {options.model}"
    check_generation(options, where)
    extra = {"adapters": adapters(options.adapter, options.model, where)} if options.adapter else {}
    if extra and options.base:
        what = "--base and --adapter are both given"
        raise ConfigError(Problem(where, what, "leave --base out: the base is /adapter none"))
    names = ("model", "base", "system", "max_new_tokens", "temperature", "top_p", "seed", "trust_remote_code")
    return {**{name: getattr(options, name) for name in names}, **extra}


def adapters(given: Sequence[str], model: str, where: str) -> dict[str, str]:
    """The folder of each adapter, keyed by the name of its run or folder.

    Raises:
        ConfigError: a name holds no adapter, an adapter has another base, or two have the same name.
    """
    found: dict[str, str] = {}
    base = sources.model_source(model)
    for name in given:
        source = sources.model_source(name)
        if source is None or not source.is_adapter or source.folder is None:
            raise ConfigError(
                Problem(where, f"{name} holds no adapter", "name a run that trained an adapter  (ftcli list adapter)")
            )
        below = sources.model_source(sources.base_of(source.folder))
        if below != base:
            own = below.location if below else "a model that is not here"
            raise ConfigError(
                Problem(where, f"{name} was trained on {own}, not on {model}", f"ftcli chat {shell_word(name)}")
            )
        word = Path(name).name if Path(name).name != rundir.MODEL else Path(name).parent.name
        if word in found:
            raise ConfigError(
                Problem(where, f"two adapters are called {word}", "copy one to a folder with another name")
            )
        found[word] = str(source.folder)
    return found


def run(argv: Sequence[str]) -> int:
    """Answer every prompt; with --json, one line each."""
    parser = arguments.parser("generate", __doc__ or "")
    add_generation(parser)
    parser.add_argument("prompts", nargs="*", help="prompts; without any, one per line from --file or stdin")
    parser.add_argument("--file", type=Path, help="text file with one prompt per line")
    parser.add_argument(
        "--to", type=Path, metavar="FILE", help="write JSON lines there, in batches; goes on after a stop"
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help=f"--to: prompts answered together ({BATCH})")
    arguments.add_json(parser)
    options = arguments.parse(parser, argv)
    if options.prompts and options.file is not None:
        raise ConfigError(
            Problem("--file", "has no effect beside prompts on the command line", "leave one of them out")
        )
    for number, prompt in enumerate(options.prompts, 1):
        if not is_text(prompt):
            raise ConfigError(Problem(f"prompt {number}", "is not UTF-8", "give text in UTF-8"))
    worker_request = {**request(options, "generate"), "prompts": options.prompts or _lines(options.file)}
    if options.to is not None or options.batch_size is not None:
        return _to_file(options, worker_request)
    own = provenance.of_model(options.model) if options.json else None
    try:
        for answer in answers("generate", worker_request):
            if options.json:
                output.line({**answer, provenance.KEY: own} if own is not None else answer)
            else:
                _print(answer)
    except WorkerFailed as failed:
        return failed.code
    return EXIT_DONE


def _to_file(options: argparse.Namespace, worker_request: dict[str, Any]) -> int:
    """Write the answers to a file, or those that are still missing in it."""
    size = BATCH if options.batch_size is None else options.batch_size
    problems = []
    if options.to is None:
        problems.append(Problem("--batch-size", "has no effect without --to", "add --to FILE"))
    if size < 1:
        problems.append(Problem(f"--batch-size {size}", "is out of range", "at least 1"))
    if options.base or len(options.adapter) > 1:
        problems.append(Problem("--to", "takes the answers of one model", "run the command once for each"))
    if options.json:
        problems.append(Problem("--json", "has no effect with --to, whose lines are JSON", "leave it out"))
    if problems:
        raise ConfigError(*problems)
    prompts = worker_request["prompts"]
    how = {key: value for key, value in worker_request.items() if key != "prompts"}
    target = AnswerFile(options.to, {**how, "batch_size": size}, prompts)
    done = target.open(size)
    if done:
        output.note(f"going on after {done} of {len(prompts)} prompts")
    try:
        target.write(answers("generate", {**worker_request, "batch_size": size, "answered": done}))
    except WorkerFailed as failed:
        return failed.code
    output.table([("prompts", str(len(prompts))), ("written", str(options.to))])
    return EXIT_DONE


def _lines(file: Path | None) -> list[str]:
    """The prompts in a file, or on standard input: each line that is not empty.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    where = f"--file {shell_word(file)}" if file else "standard input"
    try:
        text = (file.read_bytes() if file else sys.stdin.buffer.read()).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        raise ConfigError(Problem(where, what, "give text in UTF-8, one prompt per line")) from None
    # Other separators than the newline may be part of a prompt.
    prompts = [line.rstrip("\r") for line in text.split("\n") if line.strip()]
    if not prompts:
        raise ConfigError(
            Problem("ftcli generate", "there is no prompt", "give one as an argument, with --file or on stdin")
        )
    return prompts


def is_text(words: str) -> bool:
    """Whether it can be encoded; of the command line or standard input, bytes that are not UTF-8 cannot."""
    try:
        words.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _print(answer: dict[str, Any]) -> None:
    output.text(f"> {answer['prompt']}")
    labels = {"answer": "after" if "before" in answer else ""}
    columns = {labels.get(name, name): text for name, text in answer.items() if name != "prompt"}
    width = max(map(len, columns))
    for label, text in columns.items():
        output.text(f"{label:<{width}}  {text}" if width else text)
    output.say()
