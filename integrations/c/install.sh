#!/bin/sh
# Builds the C library and lays it out under a prefix: the shared library with its links, the static library, the
# header, and what pkg-config and CMake read. None of these files names the prefix, so the folder can be moved.
#
#   integrations/c/install.sh [--prefix DIR] [--libdir DIR] [--target TRIPLE] [arguments of cargo]
#
# --prefix is /usr/local unless given. --libdir is a folder in it: lib, or lib64, or lib/x86_64-linux-gnu. If DESTDIR is
# set, it goes before the prefix. Further arguments are those of cargo: --locked or --offline, say.
set -eu

fail() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}

prefix=/usr/local libdir=lib target=
while [ $# -gt 0 ]; do
  case $1 in
    --prefix=* | --libdir=* | --target=*)
      name=${1%%=*} value=${1#*=}
      shift
      ;;
    --prefix | --libdir | --target)
      [ $# -ge 2 ] || fail "$1 takes a value"
      name=$1 value=$2
      shift 2
      ;;
    --help | -h)
      sed -n '2,/^set/s/^# \{0,1\}//p' "$0"
      exit
      ;;
    --)
      shift
      break
      ;;
    *) break ;;
  esac
  [ -n "$value" ] || fail "$name is empty"
  case $name in
    --prefix) prefix=$value ;;
    --libdir) libdir=${value%/} ;;
    --target) target=$value ;;
  esac
done
case $libdir in /* | . | .. | ./* | ../* | */. | */.. | */./* | */../* | *//*)
  fail "--libdir is $libdir, expected a folder in the prefix, such as lib" ;;
esac
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
destdir=${DESTDIR-}
case $destdir in '' | /*) ;; *) destdir=$PWD/$destdir ;; esac
to=$destdir$prefix
[ -z "$target" ] || set -- --target "$target" "$@"

here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
trap 'exit 1' HUP INT TERM

# Cargo says on its standard output where it has put what it built. Not every target has shared libraries.
cargo rustc --release --lib --features capi --crate-type cdylib,staticlib \
  --message-format json-render-diagnostics "$@" >"$temporary/messages"
built() { tr '"' '\n' <"$temporary/messages" | grep "/liblanenorm\\.$1\$" | tail -n 1; }
static=$(built a)
[ -n "$static" ] || fail "cargo has built no liblanenorm.a: on Windows use cargo-c"
shared=$(built so)
[ -n "$shared" ] || shared=$(built dylib)

# What a program needs beside the static library, as the compiler says; but for what C compilers add by themselves.
rustc=${RUSTC:-rustc}
: >"$temporary/empty.rs"
"$rustc" ${target:+--target "$target"} --crate-type staticlib --print "native-static-libs=$temporary/libs" \
  -o "$temporary/libempty.a" "$temporary/empty.rs" >/dev/null 2>&1 || fail "$rustc does not say what to link with"
libs=
# shellcheck disable=SC2013 # words, not lines
for lib in $(cat "$temporary/libs"); do
  case $lib in -lc | -lgcc | -lgcc_s | -lSystem) ;; *) libs="$libs${libs:+ }$lib" ;; esac
done
bits=$("$rustc" ${target:+--target "$target"} --print cfg | sed -n 's/^target_pointer_width="\(.*\)"$/\1/p')

version=$(sed -n 's/^#define LANENORM_VERSION "\(.*\)"$/\1/p' include/lanenorm.h)
# The version up to its first number that is not zero, as in build.rs: what changes when the ABI does.
abi=${version%%.*}
[ "$abi" != 0 ] || abi=${version%.*}
case $shared in
  *.dylib) link=liblanenorm.dylib soname=liblanenorm.$abi.dylib file=liblanenorm.$version.dylib id=@rpath/$soname ;;
  *) link=liblanenorm.so soname=liblanenorm.so.$abi file=liblanenorm.so.$version id=$soname ;;
esac

# From a folder under libdir back to the prefix.
up=$(printf '%s' "$libdir" | sed 's,[^/][^/]*,..,g')
fill() {
  sed -e "s|@VERSION@|$version|g" -e "s|@ABI@|$abi|g" -e "s|@LIBDIR@|$libdir|g" -e "s|@UP@|$up|g" \
    -e "s|@FILE@|$file|g" -e "s|@SONAME@|$id|g" -e "s|@LIBS@|$libs|g" -e "s|@BYTES@|$((bits / 8))|g" \
    "$here/$1.in" >"$temporary/$1"
  put 644 "$temporary/$1" "$2/$1"
}
put() { # a mode, a file, and where it goes
  mkdir -p "$to/${3%/*}"
  install -m "$1" "$2" "$to/$3"
  printf '%s\n' "$to/$3"
}

put 644 include/lanenorm.h include/lanenorm.h
put 644 "$static" "$libdir/liblanenorm.a"
if [ -n "$shared" ]; then
  put 755 "$shared" "$libdir/$file"
  if [ "$id" != "$soname" ]; then
    # Programs look for the name in the file, which is where cargo has built it. A changed file needs a new signature.
    install_name_tool -id "$id" "$to/$libdir/$file"
    codesign --force --sign - "$to/$libdir/$file"
  fi
  ln -sf "$file" "$to/$libdir/$soname"
  ln -sf "$soname" "$to/$libdir/$link"
  printf '%s\n' "$to/$libdir/$soname" "$to/$libdir/$link"
fi
fill lanenorm.pc "$libdir/pkgconfig"
fill lanenormConfig.cmake "$libdir/cmake/lanenorm"
fill lanenormConfigVersion.cmake "$libdir/cmake/lanenorm"
