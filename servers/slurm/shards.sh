#!/usr/bin/env bash
# Submit a study in N shards, each with a server of its own, and what puts them together afterwards:
#   servers/slurm/shards.sh NAME N [options of fim-eval eval]
# SBATCH_* variables (SBATCH_PARTITION, SBATCH_ACCOUNT, ...) reach both.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=${1:?usage: servers/slurm/shards.sh NAME N [options of fim-eval eval]}
count=${2:?usage: servers/slurm/shards.sh NAME N [options of fim-eval eval]}
shift 2
[[ -f servers/$name.yaml ]] || { echo "shards.sh: no servers/$name.yaml; there are: $(cd servers && echo *.yaml)" >&2; exit 1; }
[[ $count =~ ^[1-9][0-9]*$ ]] || { echo "shards.sh: $count is no number of shards" >&2; exit 1; }

gpus=$(sed -n 's/^tensor-parallel-size: *//p' "servers/$name.yaml")
array=$(SHARDS=$count sbatch --parsable --array="1-$count" --gpus-per-node="${GPUS_PER_NODE:-$gpus}" \
    servers/slurm/shards.sbatch "$name" "$@")
# afterany: shards that ended with some tasks unanswered (code 3) are merged and counted, too.
merge=$(sbatch --parsable --dependency="afterany:${array%%;*}" servers/slurm/merge.sbatch "$name" "$count")
echo "shards: job ${array%%;*}, merge: job ${merge%%;*}; the table comes to ${OUT:-runs/$name}"
