"""Answers of a trained model, for a list of prompts or as a chat, optionally next to those of its base model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import TextStreamer, set_seed

from ftcli.core.errors import ConfigError, Problem
from ftcli.models.sources import base_of, model_source
from ftcli.runs import rundir
from ftcli.runs.measured_attention import as_measured
from ftcli.settings.groups import ModelSettings, QuantisationSettings
from ftcli.settings.run_spec import RunSpec
from ftcli.worker.inference.answer_reader import AnswerReader
from ftcli.worker.inference.metrics import generate as generate_ids
from ftcli.worker.models.adapter_switch import NOTHING, AdapterSwitch
from ftcli.worker.models.answer_ends import ending_as
from ftcli.worker.models.load import UNQUANTISED, as_granted, best_device, load_trained, make_encoder, position_limit

_MAX_NEW_TOKENS = 256

Turns = list[dict[str, str]]
Write = Callable[[str], None]
Say = Callable[[dict[str, Any]], None]
Stops = Callable[[], bool]
"""Whether the answer under way is to end here."""
STOP = "stop"
"""The message that ends the answer under way, and is none where there is none."""


class Speaker:
    """One model that answers, with its own history of the conversation.

    A model without a chat template continues the plain text and has no history.
    """

    def __init__(
        self, label: str, settings: ModelSettings, request: dict[str, Any], quantisation: QuantisationSettings
    ) -> None:
        self.label = label
        device = best_device()
        seed = request.get("seed") or 0
        self.encoder = make_encoder(settings)
        found = load_trained(settings, seed=seed, device=device, quantisation=on_device(quantisation, device))
        found = ending_as(found, self.encoder)
        self.model: Any = found if quantisation.type != "none" else found.to(device)
        folders = {name: Path(folder) for name, folder in (request.get("adapters") or {}).items()}
        self.adapters = AdapterSwitch(self.model, folders)
        self._reader = AnswerReader(self.encoder)
        self._sampling = sampling(request)
        self._name, self._positions = settings.name_or_path, position_limit(settings)
        self.system: str = request.get("system") or ""
        self.begin_anew()

    def begin_anew(self, system: str | None = None) -> None:
        """Forget the conversation; with `system`, under another system message, or with "" under none."""
        self.system = self.system if system is None else system
        self._opening: Turns = [{"role": "system", "content": self.system}] if self.system else []
        self.history: Turns = list(self._opening)

    def switch_to(self, name: str) -> None:
        """Answer with that adapter on the base from now on, or without any for the name `none`."""
        self.model = self.adapters.switch_to(name)

    def require_room(self, prompts: list[str]) -> None:
        """Check that the model has positions for each prompt, and for one token behind it.

        Raises:
            ConfigError: it has not for one of them.
        """
        for number, ids in enumerate(self._prompts(prompts), 1):
            if not self._room(ids):
                what = f"has {len(ids):,} tokens, and {self._name} has {self._positions:,} positions"
                raise ConfigError(Problem(f"prompt {number}", what, "shorten it"))

    def answer_all(self, prompts: list[str], seed: int) -> list[str]:
        """An answer to each prompt, each its own conversation."""
        set_seed(seed)
        ids = self._prompts(prompts)
        # One that has not room for the longest answer is answered by itself, so that it does not cut the others'.
        together = [place for place, each in enumerate(ids) if self._room(each) >= self._sampling["max_new_tokens"]]
        alone = [[place] for place in range(len(ids)) if place not in {*together}]
        found: dict[int, str] = {}
        for places in filter(None, (together, *alone)):
            texts = self._answers([ids[place] for place in places])
            found |= dict(zip(places, texts, strict=True))
        return [found[place].strip() for place in range(len(ids))]

    def _answers(self, ids: list[list[int]]) -> list[str]:
        room = min(map(self._room, ids))
        with torch.no_grad():
            found = generate_ids(self.model, self.encoder.tokenizer, ids, **self._within(room))
        texts: list[str] = self.encoder.tokenizer.batch_decode(found, skip_special_tokens=True)
        return texts

    def _room(self, ids: list[int]) -> int:
        """How many tokens the model has positions for behind these; 0 where they are too many by themselves."""
        return 2**31 if self._positions is None else max(0, self._positions - len(ids))

    def _within(self, room: int) -> dict[str, Any]:
        return {**self._sampling, "max_new_tokens": min(self._sampling["max_new_tokens"], room)}

    def reply(self, message: str, write: Write, stops: Stops | None = None) -> str:
        """The next turn, written piece by piece as it is generated; what there is of it once it is stopped.

        Raises:
            ConfigError: the model has no positions for the conversation with this message, which is then no part of it.
        """
        turns: Turns = [*self.history, {"role": "user", "content": message}]
        ids = [self._ids(turns)]
        if not (room := self._room(ids[0])):
            what = f"with that the conversation has {len(ids[0]):,} tokens, and the model {self._positions:,} positions"
            raise ConfigError(Problem(self._name, what, "it was not sent; /reset begins anew"))
        self.history = turns
        streamer = _Pieces(self.encoder.tokenizer, write)
        with torch.no_grad():
            how = {"streamer": streamer, "stops": stops, **self._within(room)}
            (answer,) = generate_ids(self.model, self.encoder.tokenizer, ids, **how)
        # The template decides what becomes of earlier reasoning; as part of the text it would be read as an answer.
        reasoning, final = self._reader.parts(ids[0], answer)
        thought = {"reasoning_content": reasoning} if reasoning else {}
        self.history.append({"role": "assistant", "content": final, **thought})
        text: str = self.encoder.tokenizer.decode(answer, skip_special_tokens=True)
        return text.strip()

    def _prompts(self, prompts: list[str]) -> list[list[int]]:
        return [self._ids([*self._opening, {"role": "user", "content": prompt}]) for prompt in prompts]

    def _ids(self, turns: Turns) -> list[int]:
        return self.encoder.prompt_ids(turns if self.encoder.has_template else turns[-1]["content"])


class _Pieces(TextStreamer):
    """Passes on each piece of text as soon as it is complete."""

    def __init__(self, tokenizer: Any, write: Write) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by generate."""
        self._write(text)


def generate(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One {"prompt", "answer"} per prompt, with "before" as well if the base is requested.

    Args:
        request: {"model": name, path or run, "base": bool, "prompts": [text], "max_new_tokens", "temperature",
            "top_p", "seed", "system", "trust_remote_code"}; no temperature, or 0, is greedy. With "batch_size", the
            answers of one model as soon as a batch of prompts has them, from the prompt "answered" on.

    Raises:
        ConfigError: there is no such model, its base is not known, or it has no positions for a prompt.
    """
    prompts, seed = list(request["prompts"]), request.get("seed") or 0
    if request.get("batch_size") is not None:
        yield from _in_batches(request, prompts, seed)
        return
    columns: dict[str, list[str]] = {}
    for speaker in speakers(request):
        speaker.require_room(prompts)
        for name in speaker.adapters.folders or [None]:
            if name is not None:
                speaker.switch_to(name)
            columns[name or speaker.label] = speaker.answer_all(prompts, seed)
    for index, prompt in enumerate(prompts):
        yield {"prompt": prompt, **{label: answers[index] for label, answers in columns.items()}}


def _in_batches(request: dict[str, Any], prompts: list[str], seed: int) -> Iterator[dict[str, Any]]:
    """Each batch is drawn by a seed of its own, so that one that is begun anew says the same."""
    [speaker] = speakers(request)
    speaker.require_room(prompts)
    for name in speaker.adapters.folders:
        speaker.switch_to(name)
    size = int(request["batch_size"])
    for start in range(int(request.get("answered") or 0), len(prompts), size):
        own = prompts[start : start + size]
        for prompt, answer in zip(own, speaker.answer_all(own, seed + start), strict=True):
            yield {"prompt": prompt, "answer": answer}


def chat(request: dict[str, Any], messages: Iterable[dict[str, Any]], say: Say, stops: Stops = lambda: False) -> None:
    """Answer one message after the other; of several models, each its own conversation.

    Args:
        request: as for `generate`, without prompts; "models": several names in place of "model".
        messages: {"do": "say" and "text", "reset", "system" and "text", "adapter" and "name", or "base"}.
        say: takes {"label": who answers}, {"piece": of an answer}, {"answer": whole, "label"}, {"note": text} and, once
            a message has been dealt with, {"done": True}.
        stops: looked at after each token of an answer.

    Raises:
        ConfigError: as `generate`.
    """
    talk = _Talk(request, say, stops)
    say({"done": True})
    for message in messages:
        if message["do"] == STOP:  # which came when the answer was whole
            continue
        getattr(talk, f"do_{message['do']}")(message)
        say({"done": True})


class _Talk:
    """The models of a chat."""

    def __init__(self, request: dict[str, Any], say: Say, stops: Stops) -> None:
        self._request, self._say, self._stops = request, say, stops
        names = request.get("models") or [request["model"]]
        self._speakers = [each for name in names for each in speakers({**request, "model": name})]
        if len(names) > 1:
            for name, speaker in zip(names, self._speakers, strict=True):
                speaker.label = name
        set_seed(request.get("seed") or 0)
        if adapters := request.get("adapters"):
            self.do_adapter({"name": next(iter(adapters))})

    def do_say(self, message: dict[str, Any]) -> None:
        """Answer a message. What there is of an answer that is stopped is kept; who did not answer yet is not asked."""
        stopped = False

        def stops() -> bool:
            nonlocal stopped
            stopped = stopped or self._stops()
            return stopped

        for speaker in self._speakers:
            label = {"answer": "after"}.get(speaker.label, speaker.label) if len(self._speakers) > 1 else ""
            self._say({"label": label})
            try:
                text = speaker.reply(message["text"], lambda piece: self._say({"piece": piece}), stops)
            except ConfigError as error:
                self._say({"note": f"{error.problems[0].what}; {error.problems[0].fix}"})
                continue
            self._say({"answer": text, "label": label})
            if stopped:
                self._say({"note": "stopped"})
                return

    def do_reset(self, _: dict[str, Any]) -> None:
        """Begin the conversation anew."""
        for speaker in self._speakers:
            speaker.begin_anew()

    def do_system(self, message: dict[str, Any]) -> None:
        """Begin anew with that system message, or without one."""
        for speaker in self._speakers:
            speaker.begin_anew(message["text"])

    def do_base(self, _: dict[str, Any]) -> None:
        """Show the model before training beside the other, from now on, or no longer."""
        if self._request.get("adapters"):
            self._say({"note": f"the base is /adapter {NOTHING}"})
        elif any(speaker.label == "before" for speaker in self._speakers):
            self._speakers = [speaker for speaker in self._speakers if speaker.label != "before"]
            self._say({"note": "the model before training answers no longer"})
        elif len(self._speakers) > 1:
            self._say({"note": "of several models, each has a base of its own: chat with one of them"})
        else:
            try:
                before = next(speakers({**self._request, "base": True}))
            except ConfigError as error:
                self._say({"note": str(error.problems[0].what)})
                return
            if opening := self._speakers[0].system:
                before.begin_anew(opening)
            self._speakers.insert(0, before)
            self._say({"note": "the model before training answers too, from its own beginning"})

    def do_adapter(self, message: dict[str, Any]) -> None:
        """Switch to the adapter of that name, and say which is active."""
        if not self._request.get("adapters"):
            self._say({"note": "there is no adapter to switch to: ftcli chat MODEL --adapter RUN"})
            return
        speaker, name = self._speakers[0], message["name"]
        known = [*speaker.adapters.folders, NOTHING]
        if name in known:
            speaker.switch_to(name)
            self._say({"note": f"adapter {name}; /adapter NAME switches: {', '.join(known)}"})
        else:
            self._say({"note": f"there is no adapter {name or '(no name)'}: {', '.join(known)}"})


def on_device(quantisation: QuantisationSettings, device: str) -> QuantisationSettings:
    """A run's quantisation for this device, which may compute in another dtype than the run's device."""
    if device == "cuda" or quantisation.type == "none":
        return quantisation
    return replace(quantisation, compute_dtype="float32")


def speakers(request: dict[str, Any]) -> Iterator[Speaker]:
    """The requested models, the one before training first, each loaded when its turn comes."""
    name = request["model"]
    run = rundir.find_run(name)
    # As in training: an adapter trained on a 4-bit base answers on that base.
    quantisation = RunSpec.load(run / rundir.SPEC).quantisation if run else UNQUANTISED
    before = as_granted(start_of(name), request) if request.get("base") else None
    after = as_granted(settings_of(name), request)
    if before is not None:
        yield Speaker("before", before, request, quantisation)
    yield Speaker("answer", after, request, quantisation)


def settings_of(name: str) -> ModelSettings:
    """How the model of a run, or a model, is loaded."""
    run = rundir.find_run(name)
    if run is None:
        return ModelSettings(name_or_path=name)
    # The attention kernel is the run's; the dtype depends on this machine.
    spec = as_measured(RunSpec.load(run / rundir.SPEC), run)
    return ModelSettings(name_or_path=str(run), attn_implementation=spec.model.attn_implementation)


def start_of(name: str) -> ModelSettings:
    """The model that `name` was trained from."""
    run = rundir.find_run(name)
    if run is not None:
        return replace(as_measured(RunSpec.load(run / rundir.SPEC), run).model, dtype="auto")
    source = model_source(name)
    if source is None or not source.is_adapter:
        what = f"{name} is neither a run nor an adapter, so its base model is not known"
        raise ConfigError(Problem("--base", what, "leave --base out, or name a run"))
    return ModelSettings(name_or_path=base_of(Path(source.location)))


def sampling(request: dict[str, Any]) -> dict[str, Any]:
    """The GenerationConfig settings of a request; no temperature, or 0, is greedy."""
    settings: dict[str, Any] = {"max_new_tokens": request.get("max_new_tokens") or _MAX_NEW_TOKENS}
    if request.get("temperature"):
        settings |= {"do_sample": True, "temperature": request["temperature"], "top_p": request.get("top_p") or 1.0}
    return settings
