#!/usr/bin/env python3
"""Bad files and bad jobs: each must end with one clear line and the exit code of its kind, on one rank and on several.

usage: bad_input.py BUILD_DIR MODEL.h5

Files are damaged with h5py (package python3-h5py). What marlin-convert must refuse is tested in tests/convert.
"""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import h5py
import numpy as np

os.environ["MARLIN_BACKEND"] = "cpu" # also where there are GPUs, which this many ranks would not find
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD, MODEL = sys.argv[1], sys.argv[2]
Q = "/weights/layers/000/self_attn/q_proj/"
failures = 0


def command(np_, args, tool="marlin-worker"):
    cmd = [os.path.join(BUILD, "bin", tool)] + args
    return [os.path.join(ROOT, "launch", "mpirun"), "-np", str(np_)] + cmd if np_ > 1 else cmd


def judge(name, code, err, want_code, words, seconds, limit=20):
    """One line of ours with all the words, the right code, in time."""
    global failures
    ours = [l for l in err.splitlines() if re.search(r"(^|\] )error: ", l)]
    problems = []
    if code != want_code:
        problems.append("exit code %s, expected %s" % (code, want_code))
    if len(ours) != 1:
        problems.append("%d error lines" % len(ours))
    for w in words:
        if not any(w in l for l in ours):
            problems.append("no '%s'" % w)
    if seconds > limit:
        problems.append("took %.1f s" % seconds)
    print("%-58s %s" % (name, "ok" if not problems else "FAILED: " + "; ".join(problems)), flush=True)
    if problems:
        failures += 1
        print("    " + err.replace("\n", "\n    "))


def expect(name, args, want_code, words, np_=1, tool="marlin-worker", stdin=b""):
    start = time.time()
    p = subprocess.run(command(np_, args, tool), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=120)
    judge(name, p.returncode, p.stderr.decode(errors="replace"), want_code, words, time.time() - start)


# ---- damaged files ----

def remove(path):
    def f(h):
        del h[path]
    return f


def add(path, data):
    def f(h):
        h.create_dataset(path, data=data)
    return f


def replace(path, change):
    """The dataset again, with other contents, shape or type, its attributes kept."""
    def f(h):
        data, attrs = change(h[path][()]), dict(h[path].attrs)
        del h[path]
        d = h.create_dataset(path, data=data)
        for k, v in attrs.items():
            d.attrs[k] = v
    return f


def attribute(path, name, value):
    def f(h):
        h[path].attrs[name] = value
    return f


def poke(path, index, value):
    """Other bytes under the old checksum."""
    def f(h):
        h[path][index] = value
    return f


def nan_scale(h):
    """A NaN with a right checksum: the file is whole, its contents are not."""
    d = h[Q + "scales"]
    row = d[0]
    row[5] = np.nan
    d[0] = row
    block = d.attrs["xxh3_block"]
    import ctypes
    lib = ctypes.CDLL("libxxhash.so.0")
    lib.XXH3_64bits.restype = ctypes.c_uint64
    lib.XXH3_64bits.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    part = np.ascontiguousarray(d[:block[0], :block[1]]).tobytes()
    h["/checksums" + Q[len("/weights"):] + "scales"][0, 0] = lib.XXH3_64bits(part, len(part))


def soft_link(h):
    del h[Q + "scales"]
    h[Q + "scales"] = h5py.ExternalLink("other.h5", "/x")


FILES = [
    # name, mutation, exit code, words
    ("missing tensor", remove("/weights/layers/001/mlp/up_proj"), 65, ["layers/001/mlp/up_proj", "missing"]),
    ("missing part of a tensor", remove(Q + "scales"), 65, ["q_proj/scales", "missing"]),
    ("extra tensor", lambda h: h.copy("/weights/norm", "/weights/norm2") or h.copy("/checksums/norm", "/checksums/norm2"),
     65, ["norm2", "no such weight"]),
    ("extra part of a tensor", lambda h: h.copy(Q + "scales", Q + "shift") or
     h.copy("/checksums/layers/000/self_attn/q_proj/scales", "/checksums/layers/000/self_attn/q_proj/shift"),
     65, ["q_proj/shift", "unknown dataset"]),
    ("mistyped tensor", replace(Q + "qweight", lambda a: a.astype(np.int32)), 65, ["q_proj/qweight", "i32", "u8"]),
    ("element type of no schema", replace(Q + "qweight", lambda a: a.astype(np.int16)), 65, ["q_proj/qweight", "element type"]),
    ("wrong shape", replace(Q + "scales", lambda a: a[:, :-64]), 65, ["q_proj/scales"]),
    ("wrong K in attributes", attribute(Q.rstrip("/"), "K", 256), 65, ["q_proj", "K = 256", "512"]),
    ("wrong group size", attribute(Q.rstrip("/"), "group_size", 48), 65, ["q_proj", "group_size = 48"]),
    ("chunked dataset", lambda h: replace(Q + "scales", lambda a: a)(h) or
     h.move(Q + "scales", "/tmp") or h.create_dataset(Q + "scales", data=h["/tmp"][()], chunks=(1, 64)) and None,
     65, ["q_proj/scales", "contiguous"]),
    ("external link", soft_link, 65, ["q_proj/scales", "link"]),
    ("missing checksums", remove("/checksums/layers/000/self_attn/q_proj/qweight"), 65, ["checksums/", "missing"]),
    ("corrupt weights", poke(Q + "qweight", (3, 7), 0x5a), 72, ["q_proj/qweight", "checksum mismatch", "rows 0..127"]),
    ("corrupt tokenizer", None, 72, ["tokenizer.json", "checksum mismatch"]),
    ("NaN scale", nan_scale, 72, ["q_proj/scales", "NaN"]),
    ("newer schema", attribute("/", "format_major", 2), 65, ["schema version 2", "newer"]),
    ("another format", attribute("/", "format", np.bytes_(b"something")), 65, ["something", "marlin-h5"]),
    ("stale tile layout", attribute("/", "layout", np.bytes_(b"marlin-16x64-v0")), 65, ["marlin-16x64-v0", "pack the model again"]),
    ("missing attribute", lambda h: h["/config"].attrs.__delitem__("rope_theta"), 65, ["rope_theta", "missing"]),
    ("senseless config", attribute("/config", "num_key_value_heads", 3), 65, ["key-value heads"]),
    ("huge dimension in config", attribute("/config", "hidden_size", 1 << 40), 65, ["hidden_size"]),
    ("unknown rope", attribute("/config", "rope_type", np.bytes_(b"yarn")), 67, ["yarn"]),
]


def corrupt_text(path):
    """HDF5 strings cannot be poked element by element: change one byte of the tokenizer where it lies."""
    with h5py.File(path, "r") as h:
        at = h["/text/tokenizer.json"].id.get_offset()
    with open(path, "r+b") as f:
        f.seek(at + 1000)
        b = f.read(1)
        f.seek(at + 1000)
        f.write(bytes([b[0] ^ 1]))


def damaged_files(tmp, packed):
    for name, mutate, code, words in FILES:
        path = os.path.join(tmp, "bad.h5")
        shutil.copy(MODEL, path)
        if mutate:
            with h5py.File(path, "r+") as h:
                mutate(h)
        else:
            corrupt_text(path)
        expect(name, [path, "--prompt", "x", "--max-tokens", "1"], code, words + [path])
    expect("the same on 3 ranks: " + name, [path, "--prompt", "x"], code, words, np_=3)
    path = os.path.join(tmp, "corrupt3.h5")
    shutil.copy(packed, path)
    with h5py.File(path, "r+") as h:
        h[Q + "qweight"][3, 700] = 1  # in the share of one rank only
    expect("corrupt weights, seen by one rank of 4", [path, "--prompt", "x"], 72, ["q_proj/qweight", "checksum", "rank "], np_=4)
    expect("marlin-convert --verify finds it", ["--verify", path], 72, ["q_proj/qweight", "checksum"], tool="marlin-convert")
    expect("marlin-pack --verify finds it", [path, "--verify"], 72, ["q_proj/qweight", "checksum"], tool="marlin-pack")


def truncated(tmp):
    path = os.path.join(tmp, "short.h5")
    data = open(MODEL, "rb").read()
    for size in (0, 100, 4000, len(data) // 2, len(data) - 1):
        open(path, "wb").write(data[:size])
        expect("truncated to %d bytes" % size, [path, "--prompt", "x"], 65, [path])
    open(path, "wb").write(b"this is no model\n" * 100)
    expect("not HDF5", [path, "--prompt", "x"], 65, ["not an HDF5 file"])
    with h5py.File(path, "w") as h:
        h["x"] = [1, 2, 3]
    expect("HDF5 of another kind", [path, "--prompt", "x"], 65, ["format", "missing"])
    expect("no such file", [path + "x", "--prompt", "x"], 66, ["no such file"])
    expect("no such file, 3 ranks", [path + "x", "--prompt", "x"], 66, ["no such file"], np_=3)
    expect("a folder", [tmp, "--prompt", "x"], 66, [tmp])


# ---- bad jobs ----

def bad_jobs(tmp):
    expect("too many ranks", [MODEL, "--prompt", "x"], 68, ["at most 8"], np_=9)
    expect("context beyond the model", [MODEL, "--prompt", "x", "--ctx", "100000"], 68, ["1024 positions"])
    expect("KV cache beyond the memory", [MODEL, "--prompt", "x", "--kv-memory", "900T"], 68, ["KV cache", "free"])
    expect("KV cache below the context", [MODEL, "--prompt", "x", "--ctx", "1000", "--kv-memory", "100K"], 68, ["does not fit"])
    expect("prompt longer than the context", [MODEL, "--prompt", "word " * 300, "--ctx", "64"], 68, ["tokens", "holds 64"])
    expect("backend that is not there", [MODEL, "--prompt", "x", "--backend", "cuda"], 69, ["cuda"])
    expect("backend of no name", [MODEL, "--prompt", "x", "--backend", "tpu"], 64, ["tpu"])
    expect("sampling out of range", [MODEL, "--prompt", "x", "--top-p", "7"], 64, ["top_p", "7"])
    expect("unknown tensor to inspect", [MODEL, "--inspect", "layers/9/x"], 64, ["layers/9/x"], tool="marlin-pack")
    expect("place outside a tensor", [MODEL, "--inspect", "norm", "--at", "5,5"], 64, ["norm"], tool="marlin-pack")
    expect("packing over an existing file", [MODEL, "-o", MODEL], 73, ["exists", "--force"], tool="marlin-pack")
    expect("packing into a folder that is not there", [MODEL, "-o", tmp + "/no/such.h5"], 73, ["no/such.h5"], tool="marlin-pack")
    for flags, words in ((["--verify", "--ranks", "2"], ["--ranks", "-o"]), (["--plan", "--unpack"], ["--unpack", "-o"]),
                         (["--verify", "--force"], ["--force", "-o"]), (["--verify", "-np", "2"], ["--np", "--plan"]),
                         (["--verify", "--at", "1,1"], ["--at", "--inspect"]), (["--plan", "--verify"], ["--verify", "--plan"])):
        expect("flags that do not go together: " + " ".join(flags), [MODEL] + flags, 64, words, tool="marlin-pack")
    expect("rank files on another number of ranks", [rank_files(tmp), "--prompt", "x"], 66, ["no such file"], np_=3)


def rank_files(tmp):
    out = os.path.join(tmp, "cut.h5")
    subprocess.run(command(1, [MODEL, "-o", out, "--ranks", "2", "--quiet"], "marlin-pack"), check=True)
    return out


def left_behind(tmp, stem, allowed=()):
    global failures
    left = sorted(f for f in os.listdir(tmp) if f.startswith(stem) and f not in allowed)
    if left:
        failures += 1
        print("FAILED: left behind: %s" % left)


def disk_full(tmp):
    """A file size limit stands in for a full disk: the write fails, and nothing may stay behind."""
    for ranks, words in (([], []), (["--ranks", "3"], ["rank1-of-3"])):  # rank 0 has the smallest share: it fits, and goes
        start = time.time()
        p = subprocess.run(["bash", "-c", "ulimit -f 3000; exec \"$@\"", "x"] +
                           command(1, [MODEL, "-o", os.path.join(tmp, "full.h5"), "--quiet"] + ranks, "marlin-pack"),
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        judge(" ".join(["no room while packing"] + ranks), p.returncode, p.stderr.decode(), 74, ["File too large"] + words,
              time.time() - start)
        left_behind(tmp, "full")
    with open("/dev/full", "w") as full:
        start = time.time()
        p = subprocess.run(command(1, [MODEL, "--plan"], "marlin-pack"), stdout=full, stderr=subprocess.PIPE)
    judge("no room for what is printed", p.returncode, p.stderr.decode(), 74, ["stdout"], time.time() - start)


def rank_files_fail(tmp):
    """The last name is taken: seen before the first file is written."""
    taken = "half.rank1-of-2.h5"
    open(os.path.join(tmp, taken), "w").close()
    expect("one of the rank files exists", [MODEL, "-o", os.path.join(tmp, "half.h5"), "--ranks", "2"], 73,
           [taken, "exists", "--force"], tool="marlin-pack")
    left_behind(tmp, "half", [taken])


def one_rank_cannot_read(tmp):
    """Rank 2 of 4 is given a path that leads nowhere, as on a node whose file system is not mounted."""
    path = os.path.join(tmp, "gone.h5")
    os.symlink(os.path.join(tmp, "nowhere.h5"), path)
    good, bad = command(1, [MODEL, "--prompt", "x"]), command(1, [path, "--prompt", "x"])
    cmd = [os.path.join(ROOT, "launch", "mpirun"), "-np", "2"] + good + [":", "-np", "1"] + bad + [":", "-np", "1"] + good
    start = time.time()
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60)
    judge("file unreadable on one rank only", p.returncode, p.stderr.decode(), 66, ["rank 2", "gone.h5", "No such file"],
          time.time() - start)


def children(pid):
    try:
        out = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(pid)], stdout=subprocess.PIPE).stdout.decode()
    except OSError:
        return []
    return [(int(l.split()[0]), l) for l in out.splitlines() if l.strip()]


def ranks_of(pid):
    """pids of the marlin-worker processes below mpirun, in rank order."""
    found, todo = [], [pid]
    while todo:
        for child, args in children(todo.pop()):
            todo.append(child)
            if "marlin-worker" in args and "mpirun" not in args:
                found.append(child)
    def rank(p):
        env = open("/proc/%d/environ" % p, "rb").read().split(b"\0")
        return int([e.split(b"=")[1] for e in env if e.startswith((b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK="))][0])
    return sorted(found, key=rank)


def broken_rank(victim, sig, extra, name, codes, words):
    """Start a long job on 4 ranks, signal one of them in the middle of it: the rest must end within 10 s of that."""
    global failures
    p = subprocess.Popen(command(4, [MODEL, "--max-tokens", "300", "--ignore-eos", "--temperature", "1"] + extra),
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    p.stdin.write(b"x\n" * 400)  # far more than is done before the signal, on any machine
    p.stdin.close()
    p.stdin = None  # communicate() would flush it
    p.stdout.read(20)  # the first answer is there, the others are under way
    pids = ranks_of(p.pid)
    assert len(pids) == 4, pids
    start = time.time()
    os.kill(pids[victim], sig)
    try:
        _, err = p.communicate(timeout=40)
    except subprocess.TimeoutExpired:
        os.killpg(p.pid, signal.SIGKILL)
        _, err = p.communicate()
    seconds = time.time() - start
    err = err.decode(errors="replace")
    ours = [l for l in err.splitlines() if re.search(r"(^|\] )error: ", l)]
    problems = [] if p.returncode not in (0, None) else ["exit code %s" % p.returncode]
    if len(ours) > 1:
        problems.append("%d error lines" % len(ours))
    if seconds > 10:
        problems.append("took %.1f s" % seconds)
    for w in words:
        if not any(w in l for l in ours):
            problems.append("no '%s'" % w)
    time.sleep(0.2)
    left = [q for q in pids if os.path.exists("/proc/%d" % q) and open("/proc/%d/stat" % q).read().split()[2] != "Z"]
    for q in left:
        os.kill(q, signal.SIGKILL)
    if left:
        problems.append("ranks still alive: %s" % left)
    print("%-58s %s (%.1f s, exit code %s)" % (name, "ok" if not problems else "FAILED: " + "; ".join(problems), seconds, p.returncode))
    if problems:
        failures += 1
        print("    " + err.replace("\n", "\n    "))


def broken_ranks():
    for victim in range(4):
        broken_rank(victim, signal.SIGKILL, [], "rank %d killed in a step" % victim, None, [])
    broken_rank(2, signal.SIGSTOP, ["--timeout", "3"], "rank 2 stopped in a step, deadline 3 s", None, ["rank 2"])
    broken_rank(0, signal.SIGSTOP, ["--timeout", "3"], "rank 0 stopped in a step, deadline 3 s", None, ["rank 0"])


def main():
    with tempfile.TemporaryDirectory() as tmp:
        packed = os.path.join(tmp, "packed.h5")
        subprocess.run(command(1, [MODEL, "-o", packed, "--quiet"], "marlin-pack"), check=True)
        damaged_files(tmp, packed)
        truncated(tmp)
        bad_jobs(tmp)
        disk_full(tmp)
        rank_files_fail(tmp)
        one_rank_cannot_read(tmp)
    broken_ranks()
    print("%d failures" % failures)
    sys.exit(failures != 0)


if __name__ == "__main__":
    main()
