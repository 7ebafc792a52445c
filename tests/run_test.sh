#!/usr/bin/env bash
# run_test.sh RANKS GPUS SECONDS program [args]: run one test under CTest.
# Exit 77: skipped for want of GPUs (1 under MW_TEST_NO_SKIP=1, which release runs set). A hung test is ended by
# `timeout` a little before CTest would, so that mpirun can take its ranks down.
set -u
ranks=$1 gpus=$2 seconds=$3
shift 3
have=0
if [ "$gpus" -gt 0 ]; then
    have=$(nvidia-smi --list-gpus 2>/dev/null | grep -c '^GPU ')
    if [ "$have" -lt "$gpus" ]; then
        echo "SKIPPED: $(basename "$1") needs $gpus GPU(s), found $have"
        [ "${MW_TEST_NO_SKIP:-0}" = 1 ] && exit 1
        exit 77
    fi
fi
if [ "$ranks" -gt 1 ]; then
    set -- "$(dirname "$0")/../launch/mpirun" -np "$ranks" "$@"
fi
exec timeout --kill-after=5 "$seconds" "$@"
