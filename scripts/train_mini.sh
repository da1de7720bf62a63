#!/usr/bin/env bash
# Make `mini`, the small model: videos and portraits -> faces -> pairs, and an autoencoder -> model.
#
#   scripts/train_mini.sh LIST RUN      LIST: a .txt of files, one a line (or a folder). RUN: where everything goes.
#
# Every stage goes on where it was: stop this at will (Ctrl-C, kill, a reboot) and run the same line again. It takes one
# or two cores; `nice` leaves them to others first. The model is the newest version in RUN/run/model, the page in RUN/run/index.html.
# Numbers below may be set from outside: STEPS=500 scripts/train_mini.sh ...
set -euo pipefail

list=${1:?want LIST RUN: the files to learn from, and the folder to write to}
run=${2:?want LIST RUN: the files to learn from, and the folder to write to}
fps=${FPS:-8}
pairs=${PAIRS:-7000}
relit=${RELIT:-3000}
steps=${STEPS:-60}
output_scale=${OUTPUT_SCALE:-0.5}
threads=${THREADS:-1}
rigface=${RIGFACE:-"$(dirname "$0")/../.venv/bin/rigface"}

export OMP_NUM_THREADS="$threads"
job() { nice -n 10 "$rigface" "$@"; }

job extract "$list" "$run/faces" --fps "$fps"
job pair "$run/faces" "$run/pairs" --size 128 --pairs "$pairs" --relit "$relit"
job autoencoder "$run/faces" "$run/autoencoder"
job train mini_cpu "$run/pairs" "$run/run" --autoencoder "$run/autoencoder" --steps "$steps" --output-scale "$output_scale" --threads "$threads"
