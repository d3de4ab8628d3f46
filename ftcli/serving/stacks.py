"""The forms in which servers answer: what each says of a prompt's tokens, and of an answer's.

Each is asked for greedy answers to the same prompts, as a user would ask it. llama.cpp's server and vLLM say the tokens
of a prompt and the log-probability of each token, MLX says the latter; others of OpenAI's form say how many tokens a
prompt has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ftcli.core.errors import ConfigError, Problem
from ftcli.core.text import shell_word
from ftcli.endpoints import llama_server
from ftcli.endpoints.address import Address, Refused

LLAMA_CPP, VLLM, OPENAI = "llama.cpp", "vLLM", "an endpoint of OpenAI's form"
Question = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Served:
    """What a server made of one prompt."""

    text: str
    ended: bool
    """Whether it ended by itself, and not at the most tokens that were asked for."""
    prompt_ids: list[int] | None = None
    prompt_count: int | None = None
    prompt_text: str | None = None
    """The prompt as its template renders it."""
    ids: list[int] | None = None
    logps: list[float | None] | None = None
    """In nats, None of a token for which it was not said."""

    def to_json(self) -> dict[str, Any]:
        """For the worker."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A server and what it says of itself."""

    address: Address
    form: str
    model: str
    facts: Mapping[str, Any]
    """template, bos, eos, file_type, n_embd, n_vocab, as far as they are said."""
    takes_logprobs: bool = True

    def ask(self, question: Question, longest: int) -> Served:
        """The answer to one prompt.

        Raises:
            ConfigError: the server refuses it.
        """
        try:
            if self.form == LLAMA_CPP:
                return self._of_llama_cpp(question, longest)
            return self._of_openai(question, longest)
        except Refused as error:
            raise ConfigError(Problem(self.address.where, f"the server answered {error}", _fix(error))) from None
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"the server's answer has not the form of {self.form}: {type(error).__name__}: {error}"
            raise ConfigError(Problem(self.address.where, what, "check that the address is that of a model")) from None

    # --- llama.cpp ---------------------------------------------------------------------------------------------------

    def _of_llama_cpp(self, question: Question, longest: int) -> Served:
        more = {"n_probs": 1, "cache_prompt": False, "temperature": 0, "repeat_penalty": 1.0, "model": self.model}
        if "prompt" in question:
            text = question["prompt"]
            found = self.address.post(
                "/completion", {"prompt": text, "n_predict": longest, "return_tokens": True, **more}
            )
            entries, count = found["completion_probabilities"], found["tokens_evaluated"]
            ended, content = found["stop_type"] != "limit", found["content"]
        else:
            chat = {key: question[key] for key in ("messages", "tools", "chat_template_kwargs") if key in question}
            text = llama_server.rendered(self.address, chat)
            more |= {"max_tokens": longest, "logprobs": True, "top_logprobs": 1, "verbose": True, "return_tokens": True}
            whole = self.address.post("/v1/chat/completions", {**chat, **more})
            [choice], found = whole["choices"], whole.get("__verbose") or {}
            entries, count = (choice.get("logprobs") or {}).get("content") or [], whole["usage"]["prompt_tokens"]
            ended, content = choice["finish_reason"] != "length", _text(choice["message"])
        taken = _ids(found.get("tokens") or [each["id"] for each in entries])
        ids = _ids(llama_server.tokenised(self.address, text))
        return Served(
            text=content,
            ended=ended,
            prompt_ids=ids if len(ids) == count else None,
            prompt_count=int(count),
            prompt_text=text,
            ids=taken,
            logps=_aligned(taken, entries),
        )

    # --- vLLM, and all others ----------------------------------------------------------------------------------------

    def _of_openai(self, question: Question, longest: int) -> Served:
        body: dict[str, Any] = {**question, "model": self.model, "max_tokens": longest, "temperature": 0}
        chat = "messages" in question
        path = "/v1/chat/completions" if chat else "/v1/completions"
        if self.form == VLLM:
            body["return_token_ids"] = True
        if self.takes_logprobs:
            body |= {"logprobs": True, "top_logprobs": 1} if chat else {"logprobs": 1}
        found = self.address.post(path, body)
        [choice] = found["choices"]
        logps = _logps(choice.get("logprobs"), chat)
        # MLX names the token of each log-probability, and has no list of its own for them.
        own = choice["token_ids"] if choice.get("token_ids") is not None else _named(choice.get("logprobs"))
        ids = None if own is None else _ids(own)
        prompt = found.get("prompt_token_ids") or choice.get("prompt_token_ids")
        if prompt is None and self.form == VLLM:
            prompt = self._tokenised(question)
        count = (found.get("usage") or {}).get("prompt_tokens")
        return Served(
            text=_text(choice["message"]) if chat else str(choice["text"]),
            ended=choice["finish_reason"] != "length",
            prompt_ids=None if prompt is None else _ids(prompt),
            prompt_count=None if count is None else int(count),
            ids=ids,
            logps=logps if ids is not None and logps is not None and len(logps) == len(ids) else None,
        )

    def _tokenised(self, question: Question) -> Any:
        more = {"add_generation_prompt": True} if "messages" in question else {}
        try:
            return self.address.post("/tokenize", {"model": self.model, **question, **more})["tokens"]
        except Refused:
            return None


def stack_at(address: Address, model: str | None) -> Stack:
    """The server at an address, as what it answers in.

    Args:
        model: the name by which it is asked; None for the only one that it lists.

    Raises:
        ConfigError: it does not answer, or lists several models.
    """
    props = _said(address, "/props")
    if isinstance(props, dict) and "default_generation_settings" in props:
        entry: Mapping[str, Any] = next(iter(_models(address)), {})
        meta = entry.get("meta") if isinstance(entry.get("meta"), dict) else {}
        facts = {
            "template": props.get("chat_template"), "bos": props.get("bos_token"), "eos": props.get("eos_token"),
            "file_type": props.get("model_ftype"), **{key: (meta or {}).get(key) for key in ("n_embd", "n_vocab")},
        }  # fmt: skip
        return Stack(address=address, form=LLAMA_CPP, model=model or str(entry.get("id") or "model"), facts=facts)
    version = _said(address, "/version")
    form = VLLM if isinstance(version, dict) and "version" in version and "tools" not in version else OPENAI
    name = model or _only(address, _models(address))
    stack = Stack(address=address, form=form, model=name, facts={})
    return stack if form == VLLM or _takes_logprobs(stack) else Stack(**{**vars(stack), "takes_logprobs": False})


def _takes_logprobs(stack: Stack) -> bool:
    """Whether an endpoint takes a request for log-probabilities, by asking it for one token."""
    body = {
        "model": stack.model, "messages": [{"role": "user", "content": "?"}], "max_tokens": 1, "temperature": 0,
        "logprobs": True, "top_logprobs": 1,
    }  # fmt: skip
    try:
        stack.address.post("/v1/chat/completions", body)
    except Refused:
        return False
    return True


def _said(address: Address, path: str) -> Any:
    try:
        return address.get(path)
    except Refused:
        return None


def _models(address: Address) -> list[Mapping[str, Any]]:
    found = _said(address, "/v1/models")
    entries = found.get("data") if isinstance(found, dict) else None
    return [each for each in entries if isinstance(each, dict)] if isinstance(entries, list) else []


def _only(address: Address, models: Iterable[Mapping[str, Any]]) -> str:
    """The name of the only model of a server; of one that lists none, any name will do."""
    names = [str(each.get("id")) for each in models]
    if len(names) > 1:
        shown = ", ".join(names[:8])
        fix = f"name it: --as {shell_word(names[0])}"
        raise ConfigError(Problem(address.where, f"the server has several models: {shown}", fix))
    return names[0] if names else "model"


def _text(message: Mapping[str, Any]) -> str:
    """The text of an answer, reasoning and all."""
    thought = message.get("reasoning_content") or message.get("reasoning") or ""
    return f"{thought}{message.get('content') or ''}"


def _aligned(ids: list[int], entries: Iterable[Mapping[str, Any]]) -> list[float | None]:
    """The log-probability of each token: llama.cpp leaves out tokens that are no whole characters."""
    following = iter(entries)
    entry = next(following, None)
    found: list[float | None] = []
    for each in ids:
        if entry is not None and entry["id"] == each:
            found.append(float(entry["logprob"]))
            entry = next(following, None)
        else:
            found.append(None)
    return found


def _logps(found: Any, chat: bool) -> list[float | None] | None:
    if not found:
        return None
    if chat:
        return [float(each["logprob"]) for each in found.get("content") or []]
    return [float(each) for each in found.get("token_logprobs") or [] if each is not None]


def _named(found: Any) -> list[Any] | None:
    """The tokens that log-probabilities are said of, where each is said."""
    entries = (found or {}).get("content") or []
    return [each["id"] for each in entries] if entries and all("id" in each for each in entries) else None


def _ids(found: Any) -> list[int]:
    ids = [int(each) for each in found]
    if any(each < 0 for each in ids):
        raise ValueError("a token has a number below 0")
    return ids


def _fix(error: Refused) -> str:
    if error.status in (401, 403):
        return "name the variable that holds the key with --key-env NAME"
    if error.status == 404:
        return "name the model as the server lists it with --as NAME, and its address without a path"
    return "look into the server's own log"
