#!/usr/bin/env python3
"""Whole-model decode and prefill on CPUs, beside llama.cpp with the same shapes, threads and machine, in the same run.

usage: compare.py BUILD_DIR FOLDER [--shape 2048,8192,16,32,8,64,32000] [--threads 2] [--np 1] [--repeat 5]
                  [--prompt 256] [--tokens 64] [--cpu-act int16]

FOLDER keeps the generated models (about 0.7 GB each for the default shape). llama.cpp comes from the Python package
llama-cpp-python and its file from the package gguf (Q4_0, output and embeddings f16, as ours); without them only our half is
measured. Prints medians and their ratio. Not a test: it needs a quiet machine.
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def make_gguf(path, shape):
    import gguf
    import numpy as np
    hidden, mlp, layers, heads, kv, hd, vocab = shape
    w = gguf.GGUFWriter(path, "llama")
    w.add_context_length(8192)
    w.add_embedding_length(hidden)
    w.add_block_count(layers)
    w.add_feed_forward_length(mlp)
    w.add_head_count(heads)
    w.add_head_count_kv(kv)
    w.add_key_length(hd)
    w.add_value_length(hd)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_rope_freq_base(10000.0)
    w.add_rope_dimension_count(hd)
    w.add_vocab_size(vocab)
    w.add_file_type(2)
    w.add_tokenizer_model("llama")
    tokens = [b"<unk>", b"<s>", b"</s>"] + [b"<0x%02X>" % i for i in range(256)]
    types = [2, 3, 3] + [6] * 256
    w.add_token_list(tokens + [b"t%d" % i for i in range(vocab - len(tokens))])
    w.add_token_types(types + [1] * (vocab - len(types)))
    w.add_token_scores([0.0] * vocab)
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    rng = np.random.default_rng(0)

    def int4(name, n, k):  # Q4_0: blocks of 32, an f16 scale and 16 bytes of nibbles
        b = np.empty((n, k // 32, 18), np.uint8)
        b[..., 2:] = rng.integers(0, 256, (n, k // 32, 16), dtype=np.uint8)
        b[..., :2] = (rng.random((n, k // 32, 1), dtype=np.float32) * 0.1 / np.sqrt(k)).astype(np.float16).view(np.uint8)
        w.add_tensor(name, b.reshape(n, k // 32 * 18), raw_dtype=gguf.GGMLQuantizationType.Q4_0)

    def f16(name, n, k):
        w.add_tensor(name, (rng.standard_normal((n, k), dtype=np.float32) * 0.02).astype(np.float16))

    f16("token_embd.weight", vocab, hidden)
    f16("output.weight", vocab, hidden)
    w.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for i in range(layers):
        p = "blk.%d." % i
        w.add_tensor(p + "attn_norm.weight", np.ones(hidden, np.float32))
        w.add_tensor(p + "ffn_norm.weight", np.ones(hidden, np.float32))
        int4(p + "attn_q.weight", heads * hd, hidden)
        int4(p + "attn_k.weight", kv * hd, hidden)
        int4(p + "attn_v.weight", kv * hd, hidden)
        int4(p + "attn_output.weight", hidden, heads * hd)
        int4(p + "ffn_gate.weight", mlp, hidden)
        int4(p + "ffn_up.weight", mlp, hidden)
        int4(p + "ffn_down.weight", hidden, mlp)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


class Llama:
    def __init__(self, path, threads, ctx):
        import llama_cpp
        self.model = llama_cpp.Llama(path, n_ctx=ctx, n_threads=threads, n_threads_batch=threads, n_batch=512, verbose=False)
        self.name = "llama.cpp (llama-cpp-python %s, Q4_0)" % llama_cpp.__version__

    def run(self, prompt, tokens):
        self.model.reset()
        start = time.time()
        self.model.eval(list(prompt))
        middle = time.time()
        for i in range(tokens):
            self.model.eval([500 + i])
        return len(prompt) / (middle - start), tokens / (time.time() - middle)


class Worker:
    """One process for the whole measurement, fed request by request; times are its own (TTFT, total)."""

    def __init__(self, build, model, np, threads, ctx, extra):
        cmd = [os.path.join(build, "bin", "marlin-worker"), model, "--jsonl", "--threads", str(threads), "--ctx", str(ctx),
               "--no-verify", "--quiet"] + extra
        if np > 1:
            cmd = [os.path.join(ROOT, "launch", "mpirun"), "-np", str(np)] + cmd
        self.p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.ask([5, 6, 7], 2)

    def ask(self, prompt, tokens):
        start = time.time()
        self.p.stdin.write(json.dumps({"prompt_token_ids": list(prompt), "max_tokens": tokens, "ignore_eos": True}) + "\n")
        self.p.stdin.flush()
        answer = json.loads(self.p.stdout.readline())
        assert "error" not in answer, answer
        return time.time() - start

    def run(self, prompt, tokens):
        first = self.ask(prompt, 1)
        both = self.ask(prompt, tokens + 1)
        return len(prompt) / first, tokens / (both - first)

    def close(self):
        self.p.stdin.close()
        self.p.wait()


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build")
    a.add_argument("folder")
    a.add_argument("--shape", default="2048,8192,16,32,8,64,32000")
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--np", type=int, default=1)
    a.add_argument("--repeat", type=int, default=5)
    a.add_argument("--prompt", type=int, default=256)
    a.add_argument("--tokens", type=int, default=64)
    a.add_argument("--cpu-act", default="int16")
    o = a.parse_args()
    shape = [int(x) for x in o.shape.split(",")]
    name = os.path.join(o.folder, o.shape.replace(",", "-"))
    os.makedirs(o.folder, exist_ok=True)
    if not os.path.exists(name + ".h5"):
        subprocess.run([os.path.join(o.build, "tests", "make_model"), name + ".h5", o.shape], check=True)
    ctx = o.prompt + o.tokens + 16
    ours = Worker(o.build, name + ".h5", o.np, max(1, o.threads // o.np), ctx, ["--cpu-act", o.cpu_act])
    try:
        if not os.path.exists(name + ".gguf"):
            make_gguf(name + ".gguf", shape)
        peer = Llama(name + ".gguf", o.threads, ctx)
    except ImportError as e:
        print("SKIPPED: llama.cpp (%s)" % e)
        peer = None
    prompt = [300 + i * 7 % 1000 for i in range(o.prompt)]
    rows = {"ours": [], "peer": []}
    for _ in range(o.repeat):  # in turn, so that a drift of the machine meets both
        rows["ours"].append(ours.run(prompt, o.tokens))
        if peer:
            rows["peer"].append(peer.run(prompt, o.tokens))
    ours.close()
    print("shape %s, %d threads, prompt %d, %d new tokens, median of %d" % (o.shape, o.threads, o.prompt, o.tokens, o.repeat))
    med = {}
    for who, label in (("ours", "marlin-worker (np %d x %d threads, int4 g128, %s activations)" % (o.np, max(1, o.threads // o.np), o.cpu_act)),
                       ("peer", peer.name if peer else "")):
        if not rows[who]:
            continue
        med[who] = [statistics.median(c) for c in zip(*rows[who])]
        low, high = [min(c) for c in zip(*rows[who])], [max(c) for c in zip(*rows[who])]
        print("%-72s prefill %7.1f tok/s (%.1f..%.1f)  decode %6.2f tok/s (%.2f..%.2f)"
              % (label, med[who][0], low[0], high[0], med[who][1], low[1], high[1]))
    if peer:
        print("ratio ours / llama.cpp: prefill %.2f, decode %.2f" % (med["ours"][0] / med["peer"][0], med["ours"][1] / med["peer"][1]))


main()
