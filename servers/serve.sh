#!/usr/bin/env bash
# Start one vLLM server in the foreground: servers/serve.sh NAME [vLLM options that override NAME.yaml]
set -euo pipefail
cd "$(dirname "$0")/.."

name=${1:?usage: servers/serve.sh NAME [vLLM options]; NAME is one of: $(cd servers && echo *.yaml)}
shift
config=servers/$name.yaml
python=${SERVER_PYTHON:-.venv-server/bin/python}
[[ -f $config ]] || { echo "servers/serve.sh: $config does not exist; there are: $(cd servers && echo *.yaml)" >&2; exit 1; }
[[ -x $python ]] || { echo "servers/serve.sh: $python does not exist; run make env-server" >&2; exit 1; }

# Longer than any pause of a client between two requests on one connection (vLLM's default: 5 s).
export VLLM_HTTP_TIMEOUT_KEEP_ALIVE=${VLLM_HTTP_TIMEOUT_KEEP_ALIVE:-120}
export VLLM_NO_USAGE_STATS=1
export DO_NOT_TRACK=1
if ! command -v nvidia-smi >/dev/null; then
    export VLLM_CPU_KVCACHE_SPACE=${VLLM_CPU_KVCACHE_SPACE:-2} # GB
    export VLLM_HOST_IP=${VLLM_HOST_IP:-127.0.0.1}
fi
[[ $name == smollm2 ]] && export HF_HUB_OFFLINE=1

# Not `vllm serve`: that command looks for a distribution named vllm, which the CPU build is not.
exec "$python" -m vllm.entrypoints.openai.api_server --config "$config" "$@"
