"""`ftcli serve RUN…`: start a server of OpenAI's form for a run, adapters by name, as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ftcli.cli import arguments, output
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.exit_codes import EXIT_DONE
from ftcli.core.text import shell_word
from ftcli.runs import rundir
from ftcli.runs.stop_signals import Stopped

SUMMARY = "serve a run with transformers, vLLM or llama.cpp, template and end tokens as trained"
ORDER = 125
_PORT = 8000


def run(argv: Sequence[str]) -> int:
    """Start the server, say where it is and how to compare it with the run, and end it on Ctrl-C."""
    from ftcli.build import gate
    from ftcli.endpoints.address import Address
    from ftcli.serving.programs import HOST, PROGRAMS, chosen, served_of
    from ftcli.serving.running import answers, require_free, running

    parser = arguments.parser("serve", __doc__ or "")
    described = (
        "a run, a model folder or a GGUF; several runs that trained adapters on one base are served side by side"
    )
    parser.add_argument("runs", nargs="+", metavar="RUN|FILE.gguf", help=described)
    parser.add_argument(
        "--with", dest="program", choices=[*PROGRAMS], help="the server (the first that is here and fits)"
    )
    parser.add_argument("--port", type=int, default=_PORT, help=f"port of this machine ({_PORT})")
    options = arguments.parse(parser, argv)
    where = f"ftcli serve {' '.join(map(shell_word, options.runs))}"
    for name in options.runs:
        if (found := rundir.find_run(name)) is not None:
            gate.opened(found)
    served = served_of(options.runs, where)
    program = chosen(served, options.program, where)
    require_free(options.port, where)
    address = Address.of(f"http://{HOST}:{options.port}", where)
    try:
        with running(program.words(served, options.port)) as process:
            output.note(f"starting {program.name} …")
            answers(address, process)
            output.table(_about(options.runs, program.names(served), f"{address.root}/v1", page=program.page))
            output.say("Ctrl-C ends it")
            code = process.wait()
    except Stopped as stopped:
        output.notes(f"\n{program.name} has ended ({stopped})")
        return EXIT_DONE
    what = f"{program.name} ended by itself, with code {code}"
    raise ConfigError(Problem(where, what, "what it printed stands above"))


def _trained(name: str) -> str | Path | None:
    """The run that something is of: itself, or the one whose directory it lies in."""
    around = Path(name).parent
    return name if rundir.find_run(name) is not None else around if rundir.is_run(around) else None


def _about(runs: Sequence[str], names: Sequence[str], url: str, *, page: bool) -> list[tuple[str, str]]:
    rows = [("address", url), ("model" if len(names) == 1 else "models", ", ".join(names))]
    if page:
        rows.append(("chat page", url.removesuffix("/v1") + "/"))
    for run, name in zip(runs, names, strict=False):
        if (own := _trained(run)) is not None:
            rows.append(("compare", f"ftcli verify {shell_word(own)} --at {url} --as {shell_word(name)}"))
    return rows
