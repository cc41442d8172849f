#!/usr/bin/env bash
# Builds the library, and these programs against its header: as C and as C++, linked statically and dynamically. Runs
# them all, and with AddressSanitizer and Valgrind too; those of tests/c likewise, as C. `run.sh --bench` runs
# decoder_norms at full length and nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=${PROFILE:-release}
cargo rustc --profile "$profile" --lib --features capi --crate-type cdylib,staticlib
lib=${CARGO_TARGET_DIR:-target}/$([ "$profile" = dev ] && echo debug || echo "$profile")
out=$lib/c
mkdir -p "$out/lib"
# Where programs look for the library by its soname, and nothing else.
soname=$(objdump -p "$lib/liblanenorm.so" | awk '$1 == "SONAME" { print $2 }')
cp "$lib/liblanenorm.so" "$out/lib/$soname"
ln -sf "$soname" "$out/lib/liblanenorm.so"

warnings=(-Wall -Wextra -Werror -pedantic -O3 -fopenmp -Iinclude)
c=("${CC:-cc}" -std=c99 "${warnings[@]}")
cxx=("${CXX:-c++}" -std=c++11 "${warnings[@]}")
static=("$lib/liblanenorm.a" -lpthread -ldl -lm)
dynamic=(-L"$out/lib" -Wl,-rpath,"$PWD/$out/lib" -llanenorm -lpthread -ldl -lm)
case $out in /*) dynamic[1]=-Wl,-rpath,$out/lib ;; esac
run() { printf '%s\n' "-- $*"; "$@"; }

"${c[@]}" examples/c/decoder_norms.c -o "$out/decoder_norms" "${static[@]}"
if [ "${1:-}" = --bench ]; then
  run "$out/decoder_norms"
  exit
fi
for name in check forward openmp int8 decoder_norms; do
  "${c[@]}" "examples/c/$name.c" -o "$out/$name" "${static[@]}"
  "${c[@]}" "examples/c/$name.c" -o "$out/$name-shared" "${dynamic[@]}"
  "${cxx[@]}" -x c++ "examples/c/$name.c" -x none -o "$out/$name-cxx" "${static[@]}"
  "${cxx[@]}" -x c++ "examples/c/$name.c" -x none -o "$out/$name-cxx-shared" "${dynamic[@]}"
  for linked in "$name" "$name-shared" "$name-cxx" "$name-cxx-shared"; do
    run "$out/$linked" --quick
  done
done
shared=$out/lib/$soname
for source in tests/c/*.c; do
  [ -e "$source" ] || continue # A package comes without tests.
  name=$(basename "$source" .c)
  c11=("${CC:-cc}" -std=c11 "${warnings[@]}" "$source")
  "${c11[@]}" -o "$out/$name" "${static[@]}"
  "${c11[@]}" -o "$out/$name-shared" "${dynamic[@]}"
  "${c11[@]}" -g -fsanitize=address,undefined -fno-sanitize-recover=all -o "$out/$name-asan" "${static[@]}"
  # Without a look for leaks: a child process cannot free what its parent's threads had, and a thread that starts a
  # helper in a late round of its destructors leaves 32 bytes, for whose own destructor there is no round left.
  for linked in "$name" "$name-shared" "$name-asan"; do ASAN_OPTIONS=detect_leaks=0 run "$out/$linked" "$shared"; done
  LANENORM_ISA=scalar run valgrind -q --error-exitcode=1 "$out/$name" "$shared"
done

LANENORM_ISA=sse9 run "$out/check"
LANENORM_ISA=scalar run "$out/check-shared"

"${c[@]}" -g -fsanitize=address,undefined -fno-sanitize-recover=all examples/c/check.c -o "$out/check-asan" "${static[@]}"
run "$out/check-asan"
LANENORM_ISA=scalar run valgrind -q --error-exitcode=1 --leak-check=full --errors-for-leak-kinds=definite "$out/check"
