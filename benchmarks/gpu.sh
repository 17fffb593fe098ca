#!/usr/bin/env bash
# Everything that needs a GPU, most important first. For whoever has one at hand:
#
#     OUT=results-folder bash benchmarks/gpu.sh
#
# Each step leaves OUT/STEP.done when it succeeds and is skipped from then on, so an interrupted run
# goes on where it stopped. Each takes under 10 minutes. STEPS="tests inference" runs only those.
# PET_STS=folder also repeats the paper's experiments on that data set.
# Commit what comes back: figures to benchmarks/results/ with the card and the date.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
: "${OUT:?say where the results go: OUT=folder bash benchmarks/gpu.sh}"
export OUT PYTHON=${PYTHON:-python3}
export PYTHONPATH="src${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
mkdir -p "$OUT"
failed=0

step() {
  local name=$1
  shift
  [[ -z "${STEPS:-}" || " $STEPS " == *" $name "* ]] || return 0
  [[ -e "$OUT/$name.done" ]] && { echo "== $name: done already"; return 0; }
  echo "== $name"
  # through bash, as a step may be one of the functions below
  if timeout 600 bash -c '"$@"' step "$@" 2>&1 | tee "$OUT/$name.log"; then
    touch "$OUT/$name.done"
  else
    echo "== $name failed"
    failed=1
  fi
}

train_phantom_weights() {
  local data="$OUT/phantoms" run="$OUT/phantom-pet"
  if [[ ! -d "$data" ]]; then
    rm -rf "$data.part"
    "$PYTHON" -m voxclick phantom "$data.part" --cases 60 --seed 1 --test-fraction 0 || return 1
    mv "$data.part" "$data"
  fi
  if [[ -e "$run/last.ckpt" ]]; then
    "$PYTHON" -m voxclick train "$data" --out "$run" --resume --device cuda
  else
    "$PYTHON" -m voxclick train "$data" --out "$run" --config configs/phantom-pet.yaml --device cuda
  fi
}
export -f train_phantom_weights

step environment "$PYTHON" -c 'import torch, monai; print(torch.__version__, monai.__version__, torch.cuda.get_device_name(), torch.cuda.mem_get_info())'
step tests "$PYTHON" -m pytest -m gpu -q tests/gpu tests/unit/test_preprocessing.py
step profile "$PYTHON" benchmarks/kernels.py --network dynunet --window 128
step network_variants "$PYTHON" benchmarks/network_variants.py --device cuda --network dynunet --window 128 --batch 1 --precision auto float32 --out "$OUT/network_variants.json"
step network_variants_batch "$PYTHON" benchmarks/network_variants.py --device cuda --network dynunet --window 128 --batch 4 --precision auto float32 --out "$OUT/network_variants_batch.json"
step inference "$PYTHON" benchmarks/inference.py --device cuda --network dynunet --window 128 --volume 400 400 326 --out "$OUT/inference.json"
step click "$PYTHON" -m voxclick bench click --network dynunet --clicks 40 --full-runs 3 --device cuda --out "$OUT/click-float32"
step click_auto "$PYTHON" -m voxclick bench click --network dynunet --precision auto --clicks 40 --full-runs 3 --device cuda --out "$OUT/click-auto"
step click_half_cache "$PYTHON" -m voxclick bench click --network dynunet --precision auto --cache-dtype float16 --clicks 40 --device cuda --out "$OUT/click-half-cache"
step large_volume "$PYTHON" benchmarks/large_volume.py --device cuda --out "$OUT/large_volume.json"
step training_step "$PYTHON" benchmarks/training_step.py --device cuda --network dynunet --crop 128 --batch 2 --out "$OUT/training_step.json"
step phantom_weights train_phantom_weights
# docs/reproduce.md says what this is; run again where ten minutes do not suffice
[[ -z "${PET_STS:-}" ]] || step reproduce "$PYTHON" benchmarks/reproduce.py "$PET_STS" --config configs/pet-sts-cpu.yaml --device cuda --out "$OUT/reproduced"
exit "$failed"
