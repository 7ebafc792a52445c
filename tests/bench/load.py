#!/usr/bin/env python3
"""Load time of a model file beside cat of the same file, both from the page cache, in the same run.

usage: load.py BUILD_DIR MODEL.h5 [--repeat 5] [--ctx 64]

The time is marlin-worker's own "loaded in", at 1 and 2 ranks, with checksums verified and not. Requests are token ids, so a
model without tokenizer serves. Prints medians and their ratios to cat. Not a test: it needs a quiet machine.
"""
import argparse
import os
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
REQUEST = '{"prompt_token_ids": [5, 6], "max_tokens": 1}\n'


def cat(model):
    start = time.monotonic()
    subprocess.run(["cat", model], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - start


def cat_pipe(model):
    """As cat, but the bytes are really copied out of the page cache: /dev/null takes them without reading."""
    start = time.monotonic()
    with subprocess.Popen(["cat", model], stdout=subprocess.PIPE) as first:
        subprocess.run(["cat"], stdin=first.stdout, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - start


def load(build, model, ctx, np, extra):
    cmd = [os.path.join(build, "bin", "marlin-worker"), model, "--jsonl", "--ctx", str(ctx)] + extra
    if np > 1:
        cmd = [os.path.join(ROOT, "launch", "mpirun"), "-np", str(np)] + cmd
    p = subprocess.run(cmd, capture_output=True, text=True, input=REQUEST)
    m = re.search(r"loaded in ([\d.]+) s", p.stderr)
    if p.returncode != 0 or not m or '"error"' in p.stdout:
        sys.exit("%s: exit code %d\n%s%s" % (" ".join(cmd), p.returncode, p.stdout, p.stderr))
    return float(m.group(1))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build")
    a.add_argument("model")
    a.add_argument("--repeat", type=int, default=5)
    a.add_argument("--ctx", type=int, default=64)
    o = a.parse_args()
    ways = [("cat to /dev/null", lambda: cat(o.model)), ("cat through a pipe", lambda: cat_pipe(o.model))]
    for np in (1, 2):
        for extra in ([], ["--no-verify"]):
            ways.append((" ".join(["marlin-worker, np %d" % np] + extra),
                         lambda np=np, extra=extra: load(o.build, o.model, o.ctx, np, extra)))
    cat(o.model)  # brings the file into the page cache
    rows = {name: [] for name, _ in ways}
    for _ in range(o.repeat):  # in turn, so that a drift of the machine meets all
        for name, run in ways:
            rows[name].append(run())
    size = os.path.getsize(o.model)
    base = statistics.median(rows[ways[0][0]])
    print("%s, %.2f GB, page cache warm, median of %d" % (os.path.basename(o.model), size / 1e9, o.repeat))
    for name, _ in ways:
        r = rows[name]
        print("%-34s %7.3f s (%.3f..%.3f)  %6.2f GB/s  %5.2f x cat"
              % (name, statistics.median(r), min(r), max(r), size / statistics.median(r) / 1e9, statistics.median(r) / base))


main()
