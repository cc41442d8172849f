# shellcheck shell=bash
# What .ci/run and .ci/deep are made of. Each check is a function; arguments say how much of it is done.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export CARGO_TERM_COLOR=never
# All builds are from nothing: what makes the next one fast makes these slow.
export CARGO_INCREMENTAL=0 CARGO_PROFILE_DEV_DEBUG=0
# Where a step uses the common target directory, it selects the whole workspace: features of dependencies go by what is
# selected, and what has others is built anew.

logs=target/ci
mkdir -p "$logs"
rm -f "$logs/steps"

has() { command -v "$1" >/dev/null 2>&1; }

# Runs a step: its name, and its command. Seconds of processors are those of all that it ran.
step() {
  doing=$1
  printf '\n=== %s (at %s s)\n' "$1" "$SECONDS"
  local began=$SECONDS
  TIMEFORMAT="--- $1: %0R s, processors %0U + %0S s"
  time "${@:2}"
  printf '%6s s  %s\n' $((SECONDS - began)) "$1" >>"$logs/steps"
}

# A lane: a function that calls steps one after another. The last line of a lane that fails names the step.
lane() {
  doing="before the first step"
  trap 'rc=$?; [ "$rc" -eq 0 ] || printf "\n=== FAILED: %s (exit status %s)\n" "$doing" "$rc"' EXIT
  "$1"
}

pids=()
end_lanes() {
  local pid
  for pid in "${pids[@]}"; do kill -- "-$pid" 2>/dev/null || true; done
  wait
}

# Lanes side by side, since much of each keeps one core busy. The output of the first is shown as it comes, that of any
# other when it ends. The first failure ends them all.
lanes() {
  local name failed='' rc ended
  local -A names=()
  set -m # Each is a process group, so that it can be ended with all that it started.
  for name; do
    if [ "$name" = "$1" ]; then
      lane "$name" 2>&1 </dev/null &
    else
      lane "$name" >"$logs/$name.log" 2>&1 </dev/null &
    fi
    pids+=($!)
    names[$!]=$name
  done
  trap end_lanes EXIT
  trap 'exit 1' INT TERM
  for name; do
    wait -n -p ended && rc=0 || rc=$?
    [ "$rc" -eq 0 ] || { failed=${names[$ended]} && end_lanes 2>/dev/null; }
    if [ "${names[$ended]}" != "$1" ]; then
      printf '\n=== the lane %s, done beside that:\n' "${names[$ended]}"
      cat "$logs/${names[$ended]}.log"
    fi
    [ -z "$failed" ] || exit "$rc"
  done
  trap - EXIT INT TERM
  set +m
}

summary() {
  printf '\n=== seconds of each step\n'
  sort -rn "$logs/steps"
  printf '%6s s  in all\n' "$SECONDS"
}

arch=$(uname -m)
# The tiers of this machine, found without asking the code under test; their absence from a test is a failure.
tiers=(scalar)
cpu_has() { grep -m1 '^flags' /proc/cpuinfo | grep -qw "$1"; }
if [ "$arch" = x86_64 ]; then
  if cpu_has avx2 && cpu_has fma && cpu_has f16c; then tiers+=(avx2); fi
  if cpu_has avx512dq && cpu_has avx512vl && cpu_has avx512bw && cpu_has avx512cd; then tiers+=(avx512); fi
elif [ "$arch" = aarch64 ]; then
  tiers+=(neon)
fi
export LANENORM_TEST_MIN_ISA=${tiers[-1]}

about_tiers() {
  echo "tiers of this machine: ${tiers[*]}"
  if [[ " ${tiers[*]} " != *" avx512 "* && $arch = x86_64 ]]; then
    echo "note: this machine has no AVX-512; that tier is compiled, and run by .ci/deep avx512 only"
  fi
}

# Installs what is missing (Debian).
tools() {
  local packages=()
  needs() { has "$1" || packages+=("${@:2}"); } # a command, and what it comes with
  needs c++ g++
  needs cmake cmake make
  needs pkg-config pkg-config
  needs valgrind valgrind libc6-dbg
  needs mpicc libopenmpi-dev
  needs mpirun openmpi-bin
  ls /usr/lib/*/libclang-[0-9]*.so* >/dev/null 2>&1 || packages+=(libclang1)
  /usr/bin/python3 -c 'import numpy' 2>/dev/null || packages+=(python3-numpy)
  python3 -c 'import ensurepip, venv' 2>/dev/null || packages+=(python3-venv)
  if [ "$arch" = x86_64 ]; then
    needs qemu-aarch64-static qemu-user-static
    needs aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu libc6-dev-arm64-cross
  fi
  if has rustup && ! has_source; then timeout 120 rustup component add rust-src || true; fi
  [ ${#packages[@]} -eq 0 ] || debian "${packages[@]}"
}
debian() { # packages
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -qq >/dev/null && apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Whether the sources of the standard library are there.
has_source() { [ -e "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ]; }

# A command that runs tests, of which there must be some: a name that none has is a failure.
some_tests() {
  local log=$logs/tests.$BASHPID
  "$@" | tee "$log"
  grep -qE '^running [1-9]' "$log" || { echo "no test was run by: $*"; exit 1; }
  rm "$log"
}

# The command that the README gives.
readme_tests() {
  local tests='cargo test --release --workspace'
  grep -qxF "$tests" README.md || { echo "README.md does not give the command: $tests"; exit 1; }
  $tests
}

# A check with long loops thinned out.
thinned() { LANENORM_TEST_QUICK=1 "$@"; }

manifests=(fuzz benches/neon benches/peers integrations/mpi integrations/candle integrations/python)
formatting() {
  local of
  cargo fmt --all --check
  for of in "${manifests[@]}"; do cargo fmt --manifest-path "$of/Cargo.toml" --check; done
}

# All optional parts of the library. They are on together, so that it is built for them once.
features=(--features capi,ndarray)
# As a release, like the tests: so parsers and build scripts are built once.
lints() { # arguments of cargo clippy
  cargo clippy --release --workspace --all-targets "$@" -- -D warnings
}
# What is unused without the optional parts, and without an operating system.
other_lints() {
  lints
  cargo clippy --release -p lanenorm-kernels --no-default-features -- -D warnings
}

bare=(cargo check -p lanenorm-kernels --no-default-features --target-dir target/bare)
# The kernels where there is no operating system.
other_targets() {
  if has rustup && timeout 60 rustup target add thumbv7em-none-eabihf 2>/dev/null; then
    RUSTFLAGS="-D warnings" "${bare[@]}" --target thumbv7em-none-eabihf
  else
    echo "for this system: rustup could not add a target without an operating system"
    RUSTFLAGS="-D warnings" "${bare[@]}"
  fi
}

# x86 without SSE2, where bits cannot agree.
refused_targets() {
  local refused
  if has_source; then
    refused=$(RUSTC_BOOTSTRAP=1 "${bare[@]}" -Zbuild-std=core --target i586-unknown-linux-gnu 2>&1) &&
      { echo "x86 without SSE2 compiles"; exit 1; }
    grep -q "lanenorm needs SSE2" <<<"$refused" || { echo "$refused"; exit 1; }
  else
    echo "skipped: there is no rust-src to build the standard library from"
  fi
}

# After `lints`, and with the examples, so that dependencies have the features with which they have been checked.
docs() {
  RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps --lib --bins --examples "${features[@]}"
}

capi=(--features capi --lib --test capi)
c_abi_and_arrays() {
  cargo test --release --workspace "${features[@]}" --lib --test capi --test allocation --test ndarray -q
}
docs_of_arrays() { some_tests cargo test --release --workspace "${features[@]}" --doc -q -- ndarray; }
c_programs() { examples/c/run.sh; }
# With what `c_programs` has built.
c_prefix() { integrations/c/check.sh; }

# As `c_programs` builds it.
c_library() {
  cargo rustc --release --lib --features capi --crate-type cdylib,staticlib
  [ "$arch" = x86_64 ] || return 0
  strip -o target/stripped.so target/release/liblanenorm.so
  local bytes
  bytes=$(stat -c %s target/stripped.so)
  echo "the stripped library has $bytes bytes"
  [ "$bytes" -le 2900000 ] || { echo "expected at most 2900000"; exit 1; }
}

# After `c_library`.
peers_in_python() { /usr/bin/python3 benches/peers/python/peers.py --check; }

# With the dependencies that `c_programs` has built.
codegen() { cargo test --release --workspace --test codegen -q -- --ignored; }

# Tests, thinned, with plans on each of some tiers.
forced_tiers() { # the tiers in one word, arguments of cargo test
  local isa
  for isa in $1; do
    echo "plans on $isa:"
    LANENORM_ISA=$isa LANENORM_TEST_QUICK=1 some_tests cargo test --release --workspace -q "${@:2}"
  done
}

host=$(rustc -vV | sed -n 's/^host: //p')
# Flags of sanitizers are not stable, but stable compilers take them. Their runtimes come with the compilers of rustup.
runtime_of() { compgen -G "$(rustc --print target-libdir)/librustc-*_rt.$1.a" >/dev/null; }
sanitizer() { # its target directory, its flags, arguments of cargo test
  # With some optimization of our crates: without, the exhaustive tests take ten minutes.
  RUSTC_BOOTSTRAP=1 RUSTFLAGS=$2 CARGO_PROFILE_DEV_OPT_LEVEL=1 LANENORM_TEST_QUICK=1 \
    some_tests cargo test --config 'profile.dev.package."*".opt-level=0' --target "$host" \
    --target-dir "target/$1" -q "${@:3}"
}

# Debug assertions, and AddressSanitizer where there is one.
checked() { # arguments of cargo test
  local address=
  # Checks are calls: as branches, the kernels would take ten minutes to compile.
  if runtime_of asan; then
    address="-Zsanitizer=address -Cllvm-args=-asan-instrumentation-with-call-threshold=0"
  else
    echo "without AddressSanitizer: this compiler comes without its runtime"
  fi
  sanitizer checked "$address" --features capi "$@"
}

# Without optimization, since it wants the large frames that come of that.
small_thread() { LANENORM_TEST_QUICK=1 some_tests cargo test --test contract -q -- small_thread; }

thread_sanitizer() { # arguments of cargo test
  # Without a standard library built for it, every lock there is a race.
  if runtime_of tsan && has_source; then
    sanitizer tsan -Zsanitizer=thread -Zbuild-std "$@"
  else
    echo "skipped: this toolchain has no runtime for it, or no rust-src to build the standard library from"
  fi
}

miri() {
  # It has no vectors: this is the scalar tier.
  MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}" LANENORM_TEST_MIN_ISA=scalar LANENORM_TEST_QUICK=1 \
    cargo +nightly miri "$1" --target-dir target/miri -q "${@:2}"
}
has_miri() {
  has rustup && rustup toolchain list | grep -q '^nightly' || return 1
  miri --version >/dev/null 2>&1 || timeout 120 rustup component add miri rust-src --toolchain nightly
}
# The examples of the documentation: all else takes hours there.
miri_docs() { some_tests miri test -p lanenorm --doc -- layer_norm.rs rms_norm.rs sum.rs lib.rs; }
# How threads outside of a pool are helped. The helpers and what they share outlive the tests. The test that unwinds
# does not end there within minutes.
miri_threads() {
  MIRIFLAGS=-Zmiri-ignore-leaks some_tests miri test -p lanenorm --lib -- parallel::team --skip panics_reach
}
# Every loop on small shapes, on the AVX2 tier.
miri_loops() (
  export RUSTFLAGS="-Ctarget-feature=+avx2,+fma,+f16c,+bmi1,+bmi2,+lzcnt,+popcnt,+fxsr"
  LANENORM_TEST_MIN_ISA=avx2 some_tests miri test -p lanenorm-kernels --lib -- every_loop
)
in_miri() { # of these functions, each
  has_miri || { echo "skipped: there is no nightly toolchain with Miri"; return; }
  local what
  for what; do "$what"; done
}

fuzz_targets=(forward backward quantize capi pointers floor)
# The flags of `cargo fuzz build -s none`, which would take a minute to install.
fuzz_build() {
  local flags="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 -Cpasses=sancov-module" llvm
  for llvm in sanitizer-coverage-{level=4,inline-8bit-counters,pc-table,trace-compares,stack-depth} \
    simplifycfg-branch-fold-threshold=0; do
    flags+=" -Cllvm-args=-$llvm"
  done
  # With some optimization of what is instrumented: with all of it, the build takes twice as long.
  RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo build --manifest-path fuzz/Cargo.toml \
    --locked --release --bins --target "$host" --target-dir fuzz/target
}

fuzz_one() { # a target, seconds
  mkdir -p "fuzz/corpus/$1" "fuzz/artifacts/$1"
  # What is new goes to the first directory. An input that takes a minute is a failure as well.
  "fuzz/target/$host/release/$1" "fuzz/corpus/$1" "fuzz/seeds/$1" "-artifact_prefix=fuzz/artifacts/$1/" \
    "-max_total_time=$2" -timeout=60 -print_final_stats=1 >"$logs/fuzz-$1.log" 2>&1 ||
    { tail -n 60 "$logs/fuzz-$1.log"; return 1; }
  grep number_of_executed_units "$logs/fuzz-$1.log" | sed "s/^/$1: /"
}

# Each target for some seconds, two at once.
fuzz() { # seconds
  fuzz_build
  local i fuzzers fuzzer target
  for ((i = 0; i < ${#fuzz_targets[@]}; i += 2)); do
    fuzzers=()
    for target in "${fuzz_targets[@]:i:2}"; do fuzz_one "$target" "$1" & fuzzers+=($!); done
    for fuzzer in "${fuzzers[@]}"; do wait "$fuzzer"; done
  done
}

# The scalar tier where there is nothing else.
without_avx() { # arguments of cargo test
  [ "$arch" = x86_64 ] || return 0
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER="qemu-x86_64-static -cpu Nehalem" \
    LANENORM_TEST_MIN_ISA=scalar LANENORM_TEST_QUICK=1 some_tests cargo test --release --workspace -q "$@"
}

# What .ci/with-avx512 needs: a kernel and Bochs, since neither qemu nor Valgrind has AVX-512. It is built here: that of
# Debian 12 comes with its debugger, which makes it four times slower.
emulator() {
  local at=target/emulator
  local packages=(bochsbios vgabios isolinux syslinux-common xorriso busybox-static xz-utils curl make)
  local source=http://deb.debian.org/debian/pool/main/b/bochs/bochs_3.0+dfsg.orig.tar.xz
  local sha256=78f6c73d4a6472d5130a87ab9dc306d02c7c71ed8e25b3a8ef642e2a7acd282b
  dpkg -s "${packages[@]}" >/dev/null 2>&1 || debian "${packages[@]}"
  mkdir -p $at
  [ -s $at/vmlinuz ] || (
    cd $at
    apt-get update -qq >/dev/null
    kernel=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: //p')
    apt-get download -qq -o APT::Sandbox::User=root "$kernel"
    dpkg-deb --fsys-tarfile "$kernel"_*.deb | tar -x --wildcards -O './boot/vmlinuz-*' >new
    mv new vmlinuz
    rm "$kernel"_*.deb
  )
  [ -x $at/bochs ] || (
    rm -rf $at/source
    mkdir $at/source
    cd $at/source
    curl -fsSL -o archive "$source"
    sha256sum --quiet -c <<<"$sha256  archive"
    tar -xJf archive --strip-components=1
    {
      ./configure --with-nogui --enable-cpu-level=6 --enable-x86-64 --enable-avx --enable-evex --enable-pci \
        --enable-cdrom --enable-all-optimizations --disable-plugins --disable-docbook CFLAGS=-O2 CXXFLAGS=-O2 &&
        make -j"$(nproc)" bochs
    } >log 2>&1 || { tail -n 20 log; exit 1; }
    strip -o ../bochs bochs
    rm -rf ../source
  )
}

# The AVX-512 tier where the processor has none.
with_avx512() { # arguments of cargo test
  [ "$arch" = x86_64 ] || return 0
  if [[ " ${tiers[*]} " == *" avx512 "* ]]; then
    echo "skipped: this machine has AVX-512, and its tests run on it"
    return
  fi
  emulator
  # The tests of the benchmarks read files that the emulated system does not have.
  local of=(-p lanenorm-kernels -p lanenorm -p lanenorm-tests)
  CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/.ci/with-avx512 LANENORM_TEST_MIN_ISA=avx512 \
    LANENORM_TEST_QUICK=1 some_tests cargo test --release "${of[@]}" -q "$@"
}

# In a shell of its own, with the compiler of this project and the target added where rustup can, else with Debian's.
for_neon() (
  [ "$arch" = x86_64 ] || exit 0
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -L /usr/aarch64-linux-gnu"
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  if has rustup && timeout 60 rustup target add aarch64-unknown-linux-gnu 2>/dev/null; then
    true
  elif [ -x ../shared/tools/aarch64-toolchain.sh ]; then
    exports=$(../shared/tools/aarch64-toolchain.sh "${TMPDIR:-/tmp}/aarch64-toolchain")
    eval "$exports"
  else
    echo "no compiler for aarch64: rustup could not add the target"
    exit 1
  fi
  "$@"
)
neon_some() { RUSTFLAGS=--cfg=few_tests neon_tests "$@"; }
neon_tests() { neon_test --workspace "$@"; } # arguments of cargo test
# The unit tests of the kernels alone. Those of all packages would be built with them.
neon_schemes() { neon_test -p lanenorm-kernels --lib -- every_scheme every_rounding every_gate every_divisor every_channel every_group every_function; }
neon_test() {
  LANENORM_TEST_MIN_ISA=neon LANENORM_TEST_QUICK=1 some_tests cargo test --release -q \
    --target aarch64-unknown-linux-gnu --target-dir target/neon "$@"
}
neon_codegen() {
  local compiler=${RUSTC-}
  unset RUSTC
  LANENORM_CODEGEN_TARGET=aarch64-unknown-linux-gnu LANENORM_CODEGEN_RUSTC=$compiler codegen
}

benches() { cargo bench --workspace --bench kernels -- --test "$@"; }
examples() {
  local example
  cargo build --release --workspace --examples
  for example in minilm lstm qk_norm decoder_block char_mlp; do "target/release/examples/$example"; done
}

sweep() { # seconds for each benchmark
  # With the examples, so that dependencies have the features with which they have been built.
  cargo build --release --workspace --bins --examples
  target/release/scaling --budget "$1" --json target/scaling.json
  target/release/columns --budget "$1" --json target/columns.json
  target/release/pictures target --out target/pictures
}

mpi=(--manifest-path integrations/mpi/Cargo.toml --locked --target-dir target/mpi)
# Without optimization: it has few rows, and to optimize the kernels takes minutes.
for_mpi() ( # a command of cargo, its arguments
  # libclang1 lacks the headers that come with a compiler; those of the C compiler do. libclang-dev has them, in 24 MB.
  BINDGEN_EXTRA_CLANG_ARGS="-isystem $(cc -print-file-name=include)"
  export BINDGEN_EXTRA_CLANG_ARGS
  cargo "$1" "${mpi[@]}" "${@:2}"
)
mpi_lints() { for_mpi clippy -- -D warnings; }
mpi() (
  for_mpi build
  mpirun=(mpirun --allow-run-as-root --oversubscribe)
  program=target/mpi/debug/lanenorm-mpi
  "${mpirun[@]}" -n 4 "$program"
  # Ranks on different processors.
  "${mpirun[@]}" -n 2 "$program" : -n 1 env LANENORM_ISA=scalar "$program"
  # A rank that fails ends the job: one with an error, and one that panics, since it cannot print.
  ends_the_job 'rank 2 ends the job: LANENORM_ISA is "sse9"' \
    -n 2 "$program" : -n 1 env LANENORM_ISA=sse9 "$program"
  ends_the_job "rank 0 ends the job: it panicked" \
    -n 1 sh -c "exec $program >/dev/full" : -n 2 "$program"
)
ends_the_job() { # what a rank says, arguments of mpirun
  local said rc
  said=$(timeout -k 10 60 "${mpirun[@]}" "${@:2}" 2>&1) && rc=0 || rc=$?
  [ "$rc" -eq 1 ] && grep -q "$1" <<<"$said" ||
    { printf '%s\nmpirun exits with %s, expected 1, and: %s\n' "$said" "$rc" "$1"; return 1; }
}

# Without optimization: candle takes minutes to build with it.
candle=(--manifest-path integrations/candle/Cargo.toml --locked --target-dir target/candle)
candle_tests() { cargo test "${candle[@]}" -q; }
candle_lints() {
  cargo clippy "${candle[@]}" --all-targets -- -D warnings
  # With the examples, so that dependencies have the features with which they have been checked.
  RUSTDOCFLAGS="-D warnings" cargo doc "${candle[@]}" --no-deps --lib --examples
}

# The wheel, in an environment of its own. PyTorch, where the tests of its part are wanted, takes gigabytes.
python_tests() { # packages that are installed beside those of the tests
  local python=integrations/python venv=target/python/venv
  rm -rf "$venv" target/python/wheels
  python3 -m venv "$venv"
  "$venv/bin/pip" install -q --disable-pip-version-check --no-cache-dir \
    maturin==1.16.0 ml_dtypes==0.6.0 numpy==2.4.6 pytest==9.2.0 "$@"
  CARGO_TARGET_DIR=target/python PATH=$PWD/$venv/bin:$PATH "$venv/bin/maturin" build --release --locked \
    --quiet --manifest-path "$python/Cargo.toml" --out target/python/wheels
  "$venv/bin/pip" install -q --disable-pip-version-check --no-deps target/python/wheels/*.whl
  if [ $# -gt 0 ]; then
    "$venv/bin/python" -m pytest -q "$python"
  else
    "$venv/bin/python" -m pytest -q "$python/tests/test_numpy.py"
  fi
}
python_lints() {
  CARGO_TARGET_DIR=target/python cargo clippy --manifest-path integrations/python/Cargo.toml --locked -- -D warnings
}

# To build all the peers takes too long.
peers_lints() {
  cargo clippy --manifest-path benches/peers/Cargo.toml --locked --target-dir target/peers --all-targets -- -D warnings
}

packages() { # arguments of cargo package
  # Cargo unpacks our own packages to verify them, and would take those of an earlier run for the same version.
  rm -rf "${CARGO_HOME:-$HOME/.cargo}"/registry/*/*/lanenorm-*
  cargo package -p lanenorm-kernels -p lanenorm --allow-dirty "$@"
}
