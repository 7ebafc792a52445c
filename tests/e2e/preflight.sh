#!/usr/bin/env bash
# tests/e2e/preflight.sh BUILD_DIR MODEL.h5: launch/preflight finds nothing to fix where there is nothing, and finds what there is.
set -u
export WORKER=$1/bin/marlin-worker
model=$2 here=$(cd "$(dirname "$0")/../.." && pwd) failed=0
expect() { # exit code, words that must appear, arguments...
    local out code
    out=$("$here/launch/preflight" "${@:3}" 2>&1)
    code=$?
    if [ "$code" != "$1" ] || ! printf '%s\n' "$out" | grep -q -- "$2"; then
        printf 'FAILED: preflight %s: code %s, expected %s and "%s"\n%s\n' "${*:3}" "$code" "$1" "$2" "$out"
        failed=1
    fi
}
expect 0 '^ok   dry run: context 1024' -np 3 "$model" --backend cpu
expect 0 '^ok   .* can be read' "$model" --backend cpu
expect 1 '^FIX  0 of 2 ranks can read /nowhere/it' -np 2 "/nowhere/it's.h5" --backend cpu
expect 1 '^FIX  dry run: .*at most 8' -np 9 "$model" --backend cpu
expect 64 '^usage' -np 2
WORKER=/nowhere expect 1 '^FIX  /nowhere is not there' "$model"
MPIRUN=/bin/true expect 1 'of another MPI' -np 2 "$model" --backend cpu
[ $failed = 0 ] && echo "preflight tells ready from not ready"
exit $failed
