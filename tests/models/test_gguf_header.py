"""The head of a GGUF file: what is read of a right one, and that a damaged or hostile one is one clear error."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Any

import pytest

from ftcli.core.errors import ConfigError
from ftcli.models.export.gguf_header import MOST_ITEMS, gguf_header


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def key(name: str, kind: int, value: bytes) -> bytes:
    return text(name) + struct.pack("<I", kind) + value


def array(of: int, count: int, content: bytes) -> bytes:
    return struct.pack("<IQ", of, count) + content


def tensor(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    sizes = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + sizes + struct.pack("<IQ", kind, offset)


def head(keys: list[bytes], tensors: list[bytes], version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys)) + b"".join(keys + tensors)


KEYS = [
    key("general.architecture", 8, text("llama")),
    key("tokenizer.ggml.tokens", 9, array(8, 2, text("a") + text("Ġb"))),
    key("tokenizer.ggml.eos_token_id", 4, struct.pack("<I", 1)),
    key("tokenizer.ggml.add_bos_token", 7, b"\x01"),
    key("tokenizer.ggml.token_type", 9, array(5, 2, struct.pack("<2i", 1, 3))),
]


def written(folder: Path, content: bytes) -> Path:
    file = folder / "model.gguf"
    file.write_bytes(content)
    return file


def test_metadata_and_places_of_tensors_are_read(tmp_path: Path):
    tensors = [tensor("token_embd.weight", (4, 2), 30, 0), tensor("blk.0.attn_q.weight", (4, 8), 2, 64)]
    content = head(KEYS, tensors)
    found = gguf_header(written(tmp_path, content))
    assert found.architecture == "llama"
    assert found.get("tokenizer.ggml.tokens", list) == ["a", "Ġb"]
    assert found.get("tokenizer.ggml.eos_token_id", int) == 1
    assert found.get("tokenizer.ggml.add_bos_token", bool) is True
    assert found.get("tokenizer.ggml.add_bos_token", int) is None
    assert found.get("tokenizer.ggml.token_type", list) == [1, 3]
    # 8 weights are BF16, 32 are Q4_0.
    assert found.weight_type == "Q4_0"
    assert found.mixture == ""
    file_type = key("general.file_type", 4, struct.pack("<I", 15))  # LLAMA_FTYPE_MOSTLY_Q4_K_M
    assert gguf_header(written(tmp_path, head([*KEYS, file_type], tensors))).mixture == "Q4_K_M"
    assert found.tensors["token_embd.weight"].offset == -(-len(content) // 32) * 32
    assert found.tensors["token_embd.weight"].type == "BF16"


FAULTS: dict[str, tuple[bytes, str]] = {
    "another file": (b"PK\x03\x04" + bytes(60), "it does not begin with GGUF"),
    "of another version": (head([], [], version=9), "it has version 9"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "it has version 50331648"),
    "cut": (head(KEYS, [])[:-4], "it says that more follows than there is"),
    "a text longer than the file": (head([struct.pack("<Q", 1 << 40)], []), "it says that more follows than there is"),
    "an array of more than any model": (
        head([key("a", 9, array(8, MOST_ITEMS + 1, b""))], []), "it has more values than any model's",
    ),
    "an array longer than the file": (
        head([key("a", 9, array(10, 1 << 20, b""))], []), "it says that more follows than there is",
    ),
    "arrays of arrays": (
        head([key("a", 9, array(9, 1, array(9, 1, array(9, 1, array(9, 1, b"")))))], []), "a value of unknown type 9",
    ),
    "an unknown type": (head([key("a", 77, b"")], []), "a value of unknown type 77"),
    "tensors without end": (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "more tensors or keys than any model"),
    "nothing": (b"", "it says that more follows than there is"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_or_hostile_file_is_one_error(fault: str, tmp_path: Path):
    content, what = FAULTS[fault]
    with pytest.raises(ConfigError, match="is no GGUF file, or a damaged one") as caught:
        gguf_header(written(tmp_path, content))
    assert what in str(caught.value)


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ConfigError, match="it is no regular file"):
        gguf_header(tmp_path / "pipe")


def test_the_head_that_the_gguf_package_writes_is_read(tmp_path: Path):
    gguf: Any = pytest.importorskip("gguf", reason="pip install 'ftcli[gguf]'")
    numpy = pytest.importorskip("numpy")
    writer = gguf.GGUFWriter(tmp_path / "own.gguf", "llama")
    writer.add_chat_template("{{ messages }}")
    writer.add_eos_token_id(3)
    values = numpy.arange(12, dtype=numpy.float32).reshape(3, 4)
    writer.add_tensor("token_embd.weight", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = gguf_header(tmp_path / "own.gguf")
    assert found.get("tokenizer.chat_template", str) == "{{ messages }}"
    place = found.tensors["token_embd.weight"]
    assert place.shape == (4, 3)
    assert numpy.fromfile(tmp_path / "own.gguf", "<f4", 12, offset=place.offset).tolist() == list(range(12))
