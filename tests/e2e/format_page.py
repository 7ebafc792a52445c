#!/usr/bin/env python3
"""Does docs/FORMAT.md tell the truth? Its Python example, taken from the page, reads weights of a packed and an unpacked file;
they must be those that `marlin-pack --inspect` prints, the page's worked nibble among them.

usage: format_page.py BUILD_DIR MODEL.h5
"""
import os
import re
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD, MODEL = sys.argv[1], sys.argv[2]
PACK = os.path.join(BUILD, "bin", "marlin-pack")
TENSOR = "layers/000/mlp/up_proj"


def example():
    page = open(os.path.join(ROOT, "docs", "FORMAT.md")).read()
    section = page[page.index("## Reading it with h5py"):]
    lines = [l[4:] for l in section.splitlines() if l.startswith("    ") or not l]
    return "\n".join(lines).strip()


def inspect(path, k, n):
    """{(k, n): (q, weight)} as printed around k, n."""
    text = subprocess.run([PACK, path, "--inspect", TENSOR, "--at", "%d,%d" % (k, n)], stdout=subprocess.PIPE, check=True,
                          universal_newlines=True).stdout
    columns = [int(c) for c in re.search(r"^ +n +(.*)$", text, re.M).group(1).split()]
    seen = {}
    for row in re.finditer(r"^k +(\d+) +(.*)$", text, re.M):
        values = row.group(2).split()
        for i, c in enumerate(columns):
            seen[int(row.group(1)), c] = int(values[2 * i]), float(values[2 * i + 1])
    return seen


def main():
    failed = checked = 0
    with tempfile.TemporaryDirectory() as tmp:
        packed = os.path.join(tmp, "packed.h5")
        subprocess.run([PACK, MODEL, "-o", packed, "--quiet"], check=True)
        for path in (packed, MODEL):
            scope = {}
            exec(example().replace('"packed.h5"', repr(path)), scope)
            for at in ((27, 141), (0, 0), (500, 1020), (130, 63)):
                for (k, n), (_, w) in inspect(path, *at).items():
                    got = float(scope["weight"](k, n))
                    checked += 1
                    if abs(got - w) > 1e-6 * abs(w) + 5e-7:
                        failed += 1
                        print("FAILED: %s (%d,%d): the page's code says %g, marlin-pack %g" % (path, k, n, got, w))
    print("%d weights read as the page says, %d differ" % (checked, failed))
    sys.exit(1 if failed or checked < 400 else 0)


main()
