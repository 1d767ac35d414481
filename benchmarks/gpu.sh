#!/usr/bin/env bash
# benchmarks/gpu.sh STORE MODEL FOLDER: parity and throughput on a host with an NVIDIA GPU and its driver (580 or newer
# for CUDA 13). Makes an environment of its own below the cache folder, with the gpu extra, which brings CUDA and cuDNN.
set -euo pipefail

if [ $# -ne 3 ]; then
	echo "usage: $0 STORE MODEL FOLDER" >&2
	exit 2
fi
nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader || {
	echo "$0: no NVIDIA GPU answers on this host" >&2
	exit 1
}
store=$(realpath "$1") model=$2 folder=$(realpath "$3")
cd "$(dirname "$0")/.."
environment=${XDG_CACHE_HOME:-$HOME/.cache}/sortline-gpu
if [ ! -x "$environment/bin/sortline" ]; then
	"${PYTHON:-python3}" -m venv "$environment"
	"$environment/bin/python" -m pip install --quiet --editable '.[gpu]' 'psutil>=7,<8'
fi
exec "$environment/bin/python" -m benchmarks.gpu "$model" "$folder" --store "$store"
