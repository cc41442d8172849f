#!/usr/bin/env bash
# Counts the instructions of lanenorm's plans on NEON beside those of a plain loop, under an emulator. It wants a
# compiler for aarch64-unknown-linux-gnu, its linker, and qemu-aarch64-static.
# usage: benches/neon/count.sh [ROWSxCOLS ..]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
target=aarch64-unknown-linux-gnu
linker=CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER
export "$linker=${!linker:-aarch64-linux-gnu-gcc}"
cargo build --release --quiet --target "$target" --target-dir ../../target/neon
program=../../target/neon/$target/release/lanenorm-neon
run=(qemu-aarch64-static -L /usr/aarch64-linux-gnu)

# The instructions of a number of calls, with all that starts and ends the process. The emulator logs each.
count() { # plan or plain, operation, rows, columns, calls
  "${run[@]}" -singlestep -d nochain,exec -D /dev/stdout "$program" "$@" | grep -c '^Trace'
}

# Those of one call: the second.
one_call() { echo $(($(count "$@" 2) - $(count "$@" 1))); }

shapes=("$@")
[ $# -gt 0 ] || shapes=(1x8 1x64 1x384 1x768 1x2048 1x4096 4x4096 8x64 8x768 16x384 40x128 512x128 2048x8 2048x16
  1024x32 512x48 256x96 64x255 64x256 64x257 16x1023 16x1025 50x640)
printf '%-10s %-10s %12s %12s %8s\n' operation shape lanenorm plain ratio
for op in layer_norm rms_norm; do
  for shape in "${shapes[@]}"; do
    rows=${shape%x*} cols=${shape#*x}
    ours=$(one_call plan "$op" "$rows" "$cols")
    plain=$(one_call plain "$op" "$rows" "$cols")
    awk -v op="$op" -v shape="$shape" -v a="$ours" -v b="$plain" -v n=$((rows * cols)) \
      'BEGIN { printf "%-10s %-10s %8.2f/el. %8.2f/el. %8.2f\n", op, shape, a / n, b / n, a / b }'
  done
done
