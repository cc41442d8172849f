#!/usr/bin/env bash
# Compiles the header by itself in every standard. Lays out the C library (install.sh), moves the folder, and builds and
# runs the programs of examples/c against it: by CMake, static and shared, and by pkg-config. Needs both, and a library
# that is built is not built again.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
run() { printf '%s\n' "-- $*"; "$@"; }
# Its output only if it fails.
quietly() {
  printf '%s\n' "-- $*"
  "$@" >"$out/log" 2>&1 || { cat "$out/log"; exit 1; }
}
fails() { # what it says, and the command
  if "${@:2}" >"$out/log" 2>&1; then echo "this succeeds: ${*:2}"; exit 1; fi
  grep -q -e "$1" "$out/log" || { cat "$out/log"; echo "expected: $1"; exit 1; }
}

cat >"$out/header.c" <<'END'
#include <lanenorm.h>
#include <lanenorm.h>
#if LANENORM_VERSION_MAJOR < 0 || LANENORM_VERSION_MINOR < 0 || LANENORM_VERSION_PATCH < 0
#error "the version is no number"
#endif
int main(void) {
  lanenorm_desc desc = LANENORM_DESC_INIT;
  lanenorm_forward_buffers forward = LANENORM_FORWARD_INIT;
  lanenorm_backward_buffers backward = LANENORM_BACKWARD_INIT;
  lanenorm_scheme scheme = LANENORM_SCHEME_INIT;
  lanenorm_quantized quantized = LANENORM_QUANTIZED_INIT;
  struct lanenorm_plan plan;
  enum lanenorm_status status = lanenorm_plan_init(&plan, &desc);
#ifdef DROP
  lanenorm_plan_forward(&plan, &forward, 1);
#endif
  return status == LANENORM_STATUS_OK && forward.rows == 0 && backward.rows == 0 && scheme.block == 0 &&
         quantized.range_count == 0;
}
END
strict=(-c -o "$out/header.o" -Wall -Wextra -Wconversion -Wshadow -pedantic -Werror -I"$root/include")
headers() { # a compiler, its language, standards
  local standard
  for standard in "${@:3}"; do
    "$1" -x "$2" -std="$standard" "${strict[@]}" "$out/header.c"
    fails unused "$1" -x "$2" -std="$standard" "${strict[@]}" -DDROP "$out/header.c"
    "$1" -x "$2" -std="$standard" "${strict[@]}" -DDROP -DLANENORM_NODISCARD= "$out/header.c"
  done
  echo "-- the header, by $1: ${*:3}"
}
for cc in "${CC:-cc}" clang; do
  ! command -v "$cc" >/dev/null || headers "$cc" c c99 c11 c17 gnu99
done
for cxx in "${CXX:-c++}" clang++; do
  ! command -v "$cxx" >/dev/null || headers "$cxx" c++ c++11 c++14 c++17 c++20
done

# A folder of libraries as Debian has it, in a prefix that is then moved to where a space is in the path.
multiarch=$("${CC:-cc}" -print-multiarch 2>/dev/null) || multiarch=
libdir=lib${multiarch:+/$multiarch}
DESTDIR=$out/stage quietly "$here/install.sh" --prefix=/opt/lanenorm --libdir "$libdir"
mkdir "$out/a place"
prefix="$out/a place/lanenorm"
mv "$out/stage/opt/lanenorm" "$prefix"
texts=("$prefix/$libdir"/{pkgconfig,cmake/lanenorm}/*)
if grep -E "@[A-Z]+@|/opt|$out" "${texts[@]}"; then echo "a file names a place, or has not been filled in"; exit 1; fi
[ "${#texts[@]}" -eq 3 ]
for wrong in /usr/lib ../lib lib/.. ''; do fails --libdir "$here/install.sh" --libdir "$wrong"; done

cat >"$out/version.cmake" <<'END'
include("${file}")
foreach(what COMPATIBLE EXACT UNSUITABLE)
  string(APPEND said "${what} ${PACKAGE_VERSION_${what}} ")
endforeach()
message("${said}")
END
version=$(sed -n 's/^Version: //p' "$prefix/$libdir/pkgconfig/lanenorm.pc")
asked() { # a version, the bytes of a pointer, and what the file for CMake says
  local said
  said=$(cmake -Dfile="$prefix/$libdir/cmake/lanenorm/lanenormConfigVersion.cmake" -DPACKAGE_FIND_VERSION="$1" \
    -DCMAKE_SIZEOF_VOID_P="$2" -P "$out/version.cmake" 2>&1)
  [ "$said" = "$3" ] || { echo "for version '$1', pointers of $2 bytes: $said, expected: $3"; exit 1; }
}
bytes=$(($(getconf LONG_BIT) / 8))
asked "" $bytes "COMPATIBLE TRUE EXACT  UNSUITABLE  "
asked "$version" "" "COMPATIBLE TRUE EXACT TRUE UNSUITABLE  "
case $version in *.0) exact=TRUE ;; *) exact= ;; esac
asked "${version%.*}" $bytes "COMPATIBLE TRUE EXACT $exact UNSUITABLE  "
for other in "${version%.*}.99" "${version%.*}1" 0.0 99; do
  asked "$other" $bytes "COMPATIBLE FALSE EXACT  UNSUITABLE  "
done
asked "$version" 2 "COMPATIBLE TRUE EXACT TRUE UNSUITABLE TRUE "

# What the checks of the C ABI build with every warning and sanitizer is built here in full only once.
by_cmake() { # a name, the programs, and options
  local build=$out/$1
  quietly cmake -S "$root/examples/c" -B "$build" -DCMAKE_PREFIX_PATH="$prefix" \
    -DCMAKE_C_FLAGS="-Wall -Wextra -Werror" -DCMAKE_CXX_FLAGS="-Wall -Wextra -Werror" "${@:3}"
  # shellcheck disable=SC2086 # the programs, one by one
  quietly cmake --build "$build" --parallel 2 ${2:+--target $2}
  run ctest --test-dir "$build" --output-on-failure ${2:+--tests-regex "${2// /|}"}
}
needs_shared() { # yes or no, a program
  local needs=no
  ! readelf -d "$2" | grep -q 'NEEDED.*liblanenorm' || needs=yes
  [ $needs = "$1" ] || { echo "$2: whether it needs the shared library is $needs, expected $1"; exit 1; }
}
some="forward threads" # one in C, and one in C++
by_cmake static ""
needs_shared no "$out/static/threads"
by_cmake shared "$some" -DBUILD_SHARED_LIBS=ON
needs_shared yes "$out/shared/threads"
by_cmake pkg-config "$some" -DWITH_PKG_CONFIG=ON
needs_shared yes "$out/pkg-config/threads"

# Without CMake. What pkg-config says is for a shell, which takes the space in the path for what it is.
pkg_config() { PKG_CONFIG_PATH=$prefix/$libdir/pkgconfig pkg-config "$@" lanenorm; }
[ "$(pkg_config --modversion)" = "$version" ]
eval "quietly '${CC:-cc}' '$root/examples/c/forward.c' -o '$out/forward' $(pkg_config --cflags --libs)"
needs_shared yes "$out/forward"
LD_LIBRARY_PATH=$prefix/$libdir run "$out/forward"
eval "quietly '${CC:-cc}' -static '$root/examples/c/forward.c' -o '$out/forward' $(pkg_config --static --cflags --libs)"
needs_shared no "$out/forward"
run "$out/forward"

# The static library where there is no other.
rm "$prefix/$libdir/liblanenorm.so"*
by_cmake shared "$some"
needs_shared no "$out/shared/threads"
