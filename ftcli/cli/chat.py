"""`ftcli chat MODEL…`: chat with a trained model, or several side by side; --base shows the model before training.

A line is a message. One that ends in a backslash goes on in the next, and all between two lines of three quotation
marks is one message. Lines that begin with / are commands: /help lists them. At a terminal Ctrl-C stops the answer
under way, and what was said of it is kept.
"""

from __future__ import annotations

import contextlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ftcli.cli import arguments, output
from ftcli.cli.generate import add_generation, check_model, is_text, request
from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.launch.worker_request import exit_code, started
from ftcli.runs.stop_signals import Stopped, interrupt

SUMMARY = "chat with a run or a model, or several side by side; --base shows before and after"
ORDER = 80
_PROMPT, _GOES_ON, _BLOCK = "> ", ". ", '"""'
_HELP = (
    ("/help", "this list"),
    ("/reset", "begin the conversation anew"),
    ("/system TEXT", "begin anew with that system message; without TEXT, with none"),
    ("/adapter NAME", "switch to that adapter of --adapter, or to none"),
    ("/base", "show the model before training beside the other, or no longer"),
    ("/save FILE", "write the conversation to a new file, as rows of messages"),
    ("/exit", "end, as Ctrl-D does"),
    ("//TEXT", "a message that begins with /"),
    ("Ctrl-C", "stop the answer, or take back what is typed; where there is neither, end"),
)


class _Ended(Exception):
    """The worker has ended."""


class _TakenBack(Exception):
    """The message that was being typed is none."""


class _Chat:
    """A conversation with a worker: what was said so far, by who answers."""

    def __init__(self, process: subprocess.Popen[str], system: str, *, at_terminal: bool) -> None:
        self._process, self._system, self._at_terminal = process, system, at_terminal
        self._turns: dict[str, list[dict[str, str]]] = {}

    def say(self, text: str) -> None:
        """Send a message, and print the answers."""
        self._send("say", text=text)
        with self._stoppable() if self._at_terminal else contextlib.nullcontext():
            self.listen(text)

    def do(self, what: str, **more: str) -> None:
        """Have the worker do something, and print what it says."""
        self._send(what, **more)
        self.listen()

    def _send(self, what: str, **more: str) -> None:
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it has said why
            self._process.stdin.write(json.dumps({"do": what, **more}) + "\n")
            self._process.stdin.flush()

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Let Ctrl-C stop the answer that is listened to, and not the chat; a second one is as any other."""
        stopped = False

        def stop(number: int, frame: object) -> None:
            nonlocal stopped
            if stopped:
                interrupt(number, frame)
            stopped = True
            # Nothing is raised: half of a line that was read would be lost.
            self._send("stop")

        before = signal.signal(signal.SIGINT, stop)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

    def listen(self, text: str = "") -> None:
        """Print what the worker says until it is done."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said: dict[str, Any] = json.loads(line)
            if "piece" in said:
                output.text(said["piece"], end="")
                sys.stdout.flush()
            elif "answer" in said:
                output.text("")
                own = self._turns.setdefault(said["label"], [])
                own += [{"role": "user", "content": text}, {"role": "assistant", "content": said["answer"]}]
            elif said.get("label"):
                output.text(f"{said['label']}: ", end="")
            elif "note" in said:
                output.say(f"[{said['note']}]")
            elif "done" in said:
                return
        raise _Ended

    def command(self, line: str) -> bool:
        """Carry out a command; False where it ends the chat."""
        word, _, rest = line.partition(" ")
        rest = rest.strip()
        if word == "/exit":
            return False
        if word == "/help":
            output.table(_HELP)
        elif word == "/reset":
            self._turns.clear()
            self.do("reset")
        elif word == "/system":
            self._turns.clear()
            self._system = rest
            self.do("system", text=rest)
        elif word == "/adapter":
            self.do("adapter", name=rest)
        elif word == "/base":
            self.do("base")
        elif word == "/save":
            output.say(f"[{self._save(rest)}]")
        else:
            output.say(f"[there is no command {word}: /help lists them; //… sends a message that begins with /]")
        return True

    def _save(self, name: str) -> str:
        """Write the conversation, a row for each model that answered; returns what became of it."""
        if not name:
            return "name a file: /save FILE.jsonl"
        if not self._turns:
            return "nothing was said yet"
        opening = [{"role": "system", "content": self._system}] if self._system else []
        rows = [
            {**({"model": label} if label else {}), "messages": [*opening, *turns]}
            for label, turns in self._turns.items()
        ]
        try:
            with Path(name).expanduser().open("x", encoding="utf-8") as file:
                file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        except FileExistsError:
            return f"{name} is there already, and is not written over"
        except (OSError, ValueError) as error:
            return f"{name} cannot be written: {getattr(error, 'strerror', None) or error}"
        return f"saved: {name}"


def run(argv: Sequence[str]) -> int:
    """Pass the messages on standard input to the model until it ends."""
    parser = arguments.parser("chat", __doc__ or "")
    add_generation(parser)
    parser.add_argument("others", nargs="*", metavar="MODEL", help="further models, which answer beside it")
    options = arguments.parse(parser, argv)
    worker_request = request(options, "chat")
    if options.others:
        worker_request["models"] = _several(options.model, options.others, worker_request)
    at_terminal = sys.stdin.isatty()
    if at_terminal:
        output.note("loading … then a message per line; /help lists commands, Ctrl-C stops an answer, Ctrl-D ends")
    pipes: Mapping[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    # At a terminal in a session of its own: Ctrl-C is for this process, which passes on what it means.
    with started("chat", worker_request, start_new_session=at_terminal, **pipes) as process:
        try:
            _talk(_Chat(process, options.system or "", at_terminal=at_terminal), _lines(at_terminal))
        except _Ended:
            raise_for = exit_code(process)
            if raise_for:
                return raise_for
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        return exit_code(process)


def _several(first: str, others: Sequence[str], worker_request: Mapping[str, Any]) -> list[str]:
    """The names of several models that answer side by side.

    Raises:
        ConfigError: one is there twice or holds no model, or a flag is for one model alone.
    """
    names = [first, *others]
    where = f"ftcli chat {' '.join(map(shell_word, names))}"
    if worker_request["base"] or worker_request.get("adapters"):
        flag = "--base" if worker_request["base"] else "--adapter"
        raise ConfigError(Problem(where, f"{flag} is for one model alone", f"name one model, or leave {flag} out"))
    if len(set(names)) < len(names):
        raise ConfigError(Problem(where, "one model is named twice", "name it once"))
    for name in others:
        check_model(name, where)
    return names


def _talk(chat: _Chat, lines: Callable[[str], str | None]) -> None:
    """Pass on messages and carry out commands, until the input or /exit ends it."""
    chat.listen()  # until the models are loaded
    for message in _messages(lines):
        if not is_text(message):
            output.say("[that is not UTF-8, and was not sent]")
        elif message.startswith("/") and not message.startswith("//") and "\n" not in message:
            if not chat.command(message):
                return
        else:
            chat.say(message.removeprefix("/") if message.startswith("//") else message)


def _messages(lines: Callable[[str], str | None]) -> Iterator[str]:
    """The messages in lines of input, without white space around them."""
    while True:
        try:
            if (line := lines(_PROMPT)) is None:
                return
            message = _message(line, lines)
        except _TakenBack:
            continue
        if message:
            yield message


def _message(line: str, lines: Callable[[str], str | None]) -> str:
    """A message, from its first line on."""
    taken = [line]
    if line.strip() == _BLOCK:
        taken = []
        while (more := lines(_GOES_ON)) is not None and more.strip() != _BLOCK:
            taken.append(more)
    else:
        while taken[-1].endswith("\\"):
            taken[-1] = taken[-1][:-1]
            if (more := lines(_GOES_ON)) is None:
                break
            taken.append(more)
    return "\n".join(taken).strip()


def _lines(at_terminal: bool) -> Callable[[str], str | None]:
    """What gives the next line, None at the end; at a terminal with a prompt, line editing and the lines before."""
    typed = _line_editing() if at_terminal else str
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # a byte that is not UTF-8 is no reason to end

    def following(prompt: str) -> str | None:
        try:
            if at_terminal:
                return input(prompt)
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        except EOFError:
            output.text("")
            return None
        except Stopped as stopped:
            if at_terminal:
                output.text("")
                if stopped.number == signal.SIGINT and (prompt == _GOES_ON or typed()):
                    raise _TakenBack from None
            raise

    return following


def _line_editing() -> Callable[[], str]:
    """Have input() edit lines and keep them, where that is there; returns what says what is typed so far."""
    try:
        import readline
    except ImportError:
        return str
    return readline.get_line_buffer
