#!/usr/bin/env python3
"""marlin-convert --lm-head int4: the whole way on the demo model, written back to 16 bits first.

usage: lm_head.py BUILD_DIR DEMO.h5

Checked: perplexity beside that of the 16-bit head (200 tokens: a few per cent; docs/NUMERICS.md has a longer text); the
same numbers on any number of ranks, packed and unpacked; a tied model gives what one with a copy of the embedding as its
head gives; GPTQ export where its one group size allows; what is refused. Standard library only.
"""
import json
import os
import struct
import subprocess
import sys
import tempfile

BUILD, DEMO = sys.argv[1:3]
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TEXT = "HAMLET:\nTo be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 8
failed = []


def check(ok, what):
    if not ok:
        failed.append(what)
        print("FAILED: " + what, flush=True)


def tool(name, *args, code=0, says=""):
    p = subprocess.run([os.path.join(BUILD, "bin", name)] + [str(a) for a in args], stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, timeout=300)
    text = p.stdout.decode()
    check(p.returncode == code and says in text, "%s %s: code %d, expected %d, '%s': %s"
          % (name, " ".join(map(str, args)), p.returncode, code, says, text))
    return text


def perplexity(model, np=1):
    cmd = [os.path.join(BUILD, "bin", "marlin-worker"), model, "--backend", "cpu", "--quiet", "--perplexity", "text.txt"]
    if np > 1:
        cmd = [os.path.join(ROOT, "launch", "mpirun"), "-np", str(np)] + cmd
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    if p.returncode != 0:
        raise SystemExit("FAILED: %s\n%s" % (" ".join(cmd), p.stderr.decode()))
    return json.loads(p.stdout)["perplexity"]


def near(a, b, relative):
    return abs(a - b) <= relative * b


def read_safetensors(path):
    with open(path, "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        head, data = json.loads(f.read(n)), f.read()
    head.pop("__metadata__", None)
    return {k: (v["dtype"], v["shape"], data[v["data_offsets"][0]:v["data_offsets"][1]]) for k, v in head.items()}


def write_safetensors(path, tensors):
    head, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        head[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(head).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(t[2] for t in tensors.values()))


def variant(name, tensors, tied):
    """The folder `full` with these tensors instead."""
    os.mkdir(name)
    for entry in os.listdir("full"):
        if not entry.endswith(".safetensors") and entry != "model.safetensors.index.json":
            os.symlink(os.path.abspath(os.path.join("full", entry)), os.path.join(name, entry))
    config = json.load(open("full/config.json"))
    config["tie_word_embeddings"] = tied
    os.remove(os.path.join(name, "config.json"))
    json.dump(config, open(os.path.join(name, "config.json"), "w"))
    write_safetensors(os.path.join(name, "model.safetensors"), tensors)


def costs_little():
    tool("marlin-convert", "--dequant", DEMO, "-o", "full", "--quiet")
    tool("marlin-convert", "full", "-o", "full.h5", "--quantize", "none", "--quiet")
    base = perplexity("full.h5")
    for group in ("", ":64", ":32", ":-1"):
        out = "head%s.h5" % group.replace(":", "_")
        tool("marlin-convert", "full", "-o", out, "--quantize", "none", "--lm-head", "int4" + group, "--quiet")
        tool("marlin-convert", "--verify", out)
        p = perplexity(out)
        print("%-14s perplexity %.4f, 16-bit head %.4f" % (out, p, base))
        check(near(p, base, 0.06), "%s: perplexity %g, with a 16-bit head %g" % (out, p, base))
        check(os.path.getsize(out) < os.path.getsize("full.h5"), "%s is no smaller" % out)


def ranks_agree():
    tool("marlin-pack", "head.h5", "-o", "packed.h5", "--verify", "--quiet")
    want = perplexity("head.h5")
    for model in ("head.h5", "packed.h5"):
        for np in (1, 2, 3):
            got = perplexity(model, np)
            check(near(got, want, 1e-5), "%s on %d ranks: perplexity %.8g, expected %.8g" % (model, np, got, want))


def tied_is_a_copy():
    tensors = {}
    for entry in sorted(os.listdir("full")):
        if entry.endswith(".safetensors"):
            tensors.update(read_safetensors(os.path.join("full", entry)))
    tensors.pop("lm_head.weight")
    variant("tied", tensors, True)
    variant("copy", {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"]}, False)
    for name in ("tied", "copy"):
        tool("marlin-convert", name, "-o", name + ".h5", "--quantize", "rtn", "--lm-head", "int4", "--quiet")
    a, b = perplexity("tied.h5"), perplexity("copy.h5")
    check(a == b, "tied: perplexity %.10g, with a copy of the embedding %.10g" % (a, b))
    # Written back, the head is a weight of its own.
    tool("marlin-convert", "--to-safetensors", "tied.h5", "-o", "gptq", "--quiet")
    check(json.load(open("gptq/config.json"))["tie_word_embeddings"] is False, "the export still ties its head")
    tool("marlin-convert", "gptq", "-o", "back.h5", "--quiet")
    check(perplexity("back.h5") == a, "GPTQ export and back changes the perplexity")


def refused():
    tool("marlin-convert", "gptq", "-o", "x.h5", "--lm-head", "int4", code=64, says="lm_head is already quantised (gptq)")
    for value in ("int8", "int4:48", "int4:", "int44"):
        tool("marlin-convert", "full", "-o", "x.h5", "--quantize", "none", "--lm-head", value, code=64, says="--lm-head")
    tool("marlin-convert", "--verify", "head.h5", "--lm-head", "int4", code=64, says="belong to a conversion")
    tool("marlin-convert", "full", "-o", "mixed.h5", "--quantize", "rtn", "--lm-head", "int4:32", "--quiet")
    tool("marlin-convert", "--to-safetensors", "mixed.h5", "-o", "y", code=67, says="GPTQ has one for the whole model")
    check(not os.path.exists("x.h5") and not os.path.exists("y"), "something was written all the same")


with tempfile.TemporaryDirectory() as folder:
    BUILD, DEMO = os.path.abspath(BUILD), os.path.abspath(DEMO)
    os.chdir(folder)
    open("text.txt", "w").write(TEXT)
    costs_little()
    ranks_agree()
    tied_is_a_copy()
    refused()
    os.chdir("/")
print("%d failed" % len(failed))
sys.exit(bool(failed))
