#!/usr/bin/env bash
# tests/e2e/install.sh BUILD_DIR MODEL.h5: install into a fresh prefix, then use it from there: programs, man pages,
# completion, and the library through pkg-config and through find_package.
set -eu
build=$1 model=$2 here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/prefix
fail() { echo "FAILED: $*"; exit 1; }

cmake --install "$build" --prefix "$prefix" >"$work/log" || { cat "$work/log"; fail "cmake --install"; }
export PATH=$prefix/bin:$PATH MARLIN_BACKEND=cpu
lib=$(dirname "$(find "$prefix" -name libmarlin-worker.so | head -1)")
export LD_LIBRARY_PATH=$lib PKG_CONFIG_PATH=$lib/pkgconfig

for tool in marlin-worker marlin-convert marlin-pack marlin-bench; do
    "$tool" --version >/dev/null || fail "$tool --version"
    [ -f "$prefix/share/man/man1/$tool.1" ] || fail "no man page of $tool"
    [ -f "$prefix/share/bash-completion/completions/$tool" ] || fail "no completion for $tool"
done
# shellcheck disable=SC1090
( . "$prefix/share/bash-completion/completions/marlin-worker"
  COMP_WORDS=(marlin-worker --perp) COMP_CWORD=1
  _marlin
  [ "${COMPREPLY[*]}" = --perplexity ] || fail "completion of --perp: ${COMPREPLY[*]}" )
headers=$(cd "$prefix/include/marlin-worker" && find . -type f | sort | tr '\n' ' ')
[ "$headers" = "./worker/base/status.h ./worker/engine.h " ] || fail "headers: $headers"
hidden=$(nm -D --defined-only "$lib/libmarlin-worker.so" | awk '{print $3}' | grep -vE '^mw_(engine|event|sampling|error|status)_' || true)
[ -z "$hidden" ] || fail "the library shows more than its face: $hidden"

want=$(marlin-worker "$model" --prompt $'HAMLET:\nTo be, or not to be' --max-tokens 8 --ctx 64 --quiet)
# shellcheck disable=SC2046
${CC:-cc} -std=c11 -Wall -Werror "$here/embed.c" $(pkg-config --cflags --libs marlin-worker) -o "$work/embed"
[ "$("$work/embed" "$model")" = "$want" ] || fail "embedding through pkg-config"

cat >"$work/CMakeLists.txt" <<EOF
cmake_minimum_required(VERSION 3.22)
project(embed C)
find_package(marlin-worker 0.1 REQUIRED)
add_executable(embed2 $here/embed.c)
target_link_libraries(embed2 PRIVATE marlin-worker::marlin-worker)
EOF
cmake -S "$work" -B "$work/b" -DCMAKE_PREFIX_PATH="$prefix" >"$work/log" && cmake --build "$work/b" >>"$work/log" || { cat "$work/log"; fail "find_package"; }
[ "$("$work/b/embed2" "$model")" = "$want" ] || fail "embedding through find_package"
echo "installed, used, embedded"
