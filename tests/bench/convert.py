#!/usr/bin/env python3
"""marlin-convert beside cp + fsync of the same bytes, and its peak resident memory, on a generated GPTQ folder of 70B layer shapes.

usage: convert.py BUILD_DIR FOLDER [--layers 10] [--repeat 3]

FOLDER gets layers-N, the generated model (about 0.43 GB a layer, 0.27 GB besides; kept for the next run), and during the
run a copy, the converted and the packed model, so it needs four times that. Input pages leave the page cache before each
measurement; both sides are timed until the bytes are on the disk. Exit code 1: marlin-convert kept 2 GiB or more resident.
Then marlin-pack of the result, which prints its own figures. Not a test: it needs a quiet machine.
"""
import argparse
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import time

HIDDEN, MLP, HEADS, KV, HEAD_DIM, GROUP, VOCAB = 8192, 28672, 64, 8, 128, 128, 8192
LIMIT = 2 << 30  # bytes marlin-convert may keep resident, whatever the model's size
CHUNK = 16 << 20
SHARD = 1 << 30
# The upper byte of random fp16 numbers; the lower byte may be anything.
SCALE_HIGH = bytes(0x14 | b & 3 for b in range(256))  # 2^-10 .. 2^-9
WEIGHT_HIGH = bytes(b & 0x80 | 0x20 | b & 3 for b in range(256))  # +-(2^-7 .. 2^-6)


def repeated(word):
    return lambda at, n: struct.pack("<I", word) * (n // 4)


def halves(table):
    def fill(at, n):
        b = bytearray(n)
        b[0::2] = os.urandom(n // 2)
        b[1::2] = os.urandom(n // 2).translate(table)
        return b
    return fill


def group_index(at, n):
    return struct.pack("<%di" % (n // 4), *((at + i) // 4 // GROUP for i in range(0, n, 4)))


def linear(name, n, k):
    """The four tensors of one layer: (name, dtype, shape, bytes, fill(offset, bytes)); GPTQ v1 stores each zero point less 1."""
    return [(name + ".qweight", "I32", [k // 8, n], k * n // 2, lambda at, size: os.urandom(size)),
            (name + ".qzeros", "I32", [k // GROUP, n // 8], k // GROUP * n // 2, repeated(0x77777777)),
            (name + ".scales", "F16", [k // GROUP, n], k // GROUP * n * 2, halves(SCALE_HIGH)),
            (name + ".g_idx", "I32", [k], k * 4, group_index)]


def tensors(layers):
    def norm(name):
        return (name + ".weight", "F16", [HIDDEN], HIDDEN * 2, repeated(0x3C003C00))

    def matrix(name):
        return (name + ".weight", "F16", [VOCAB, HIDDEN], VOCAB * HIDDEN * 2, halves(WEIGHT_HIGH))

    yield matrix("model.embed_tokens")
    for i in range(layers):
        p = "model.layers.%d." % i
        yield norm(p + "input_layernorm")
        yield from linear(p + "self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN)
        yield from linear(p + "self_attn.k_proj", KV * HEAD_DIM, HIDDEN)
        yield from linear(p + "self_attn.v_proj", KV * HEAD_DIM, HIDDEN)
        yield from linear(p + "self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM)
        yield norm(p + "post_attention_layernorm")
        yield from linear(p + "mlp.gate_proj", MLP, HIDDEN)
        yield from linear(p + "mlp.up_proj", MLP, HIDDEN)
        yield from linear(p + "mlp.down_proj", HIDDEN, MLP)
    yield norm("model.norm")
    yield matrix("lm_head")


def write_shard(path, shard):
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, dtype, shape, size, _ in shard:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, _, size, fill in shard:
            for at in range(0, size, CHUNK):
                f.write(fill(at, min(CHUNK, size - at)))
        f.flush()
        os.fsync(f.fileno())  # pages not yet written cannot be dropped from the page cache


def config(layers):
    return {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16", "hidden_act": "silu",
            "hidden_size": HIDDEN, "intermediate_size": MLP, "num_hidden_layers": layers, "num_attention_heads": HEADS,
            "num_key_value_heads": KV, "head_dim": HEAD_DIM, "vocab_size": VOCAB, "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
            "quantization_config": {"quant_method": "gptq", "checkpoint_format": "gptq", "bits": 4, "group_size": GROUP,
                                    "sym": True, "desc_act": False, "lm_head": False}}


def generate(folder, layers):
    """Written beside its name and moved there, so that a folder of that name is a whole one."""
    tmp = folder + ".part"
    shutil.rmtree(tmp, ignore_errors=True)
    os.makedirs(tmp)
    shards = [[]]
    for t in tensors(layers):
        if shards[-1] and sum(x[3] for x in shards[-1]) + t[3] > SHARD:
            shards.append([])
        shards[-1].append(t)
    where, total = {}, 0
    for i, shard in enumerate(shards):
        name = "model-%05d-of-%05d.safetensors" % (i + 1, len(shards))
        write_shard(os.path.join(tmp, name), shard)
        where.update((t[0], name) for t in shard)
        total += sum(t[3] for t in shard)
    for name, what in (("model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": where}),
                       ("config.json", config(layers))):
        with open(os.path.join(tmp, name), "w") as f:
            json.dump(what, f, indent=1)
            f.flush()
            os.fsync(f.fileno())
    os.rename(tmp, folder)


def files(path):
    return [os.path.join(path, x) for x in sorted(os.listdir(path))] if os.path.isdir(path) else [path]


def remove(path):
    if os.path.isdir(path):
        shutil.rmtree(path)
    elif os.path.exists(path):
        os.unlink(path)


def each(path, do):
    for name in files(path):
        fd = os.open(name, os.O_RDONLY)
        do(fd)
        os.close(fd)


def drop(path):
    each(path, os.fsync)
    each(path, lambda fd: os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED))


def timed(cmd, source, target):
    """Seconds until what cmd makes of source is on the disk as target, and cmd's largest resident memory in bytes."""
    remove(target)  # not in the time of either side
    drop(source)
    start = time.monotonic()
    p = subprocess.Popen(cmd)
    _, status, usage = os.wait4(p.pid, 0)
    p.returncode = os.waitstatus_to_exitcode(status)
    if p.returncode != 0:
        sys.exit("%s: exit code %d" % (" ".join(cmd), p.returncode))
    each(target, os.fsync)
    return time.monotonic() - start, usage.ru_maxrss * 1024


def main():
    a = argparse.ArgumentParser()
    a.add_argument("build")
    a.add_argument("folder")
    a.add_argument("--layers", type=int, default=10)
    a.add_argument("--repeat", type=int, default=3)
    o = a.parse_args()
    if o.layers < 1 or o.repeat < 1:
        a.error("--layers and --repeat start at 1")
    os.makedirs(o.folder, exist_ok=True)
    model = os.path.join(o.folder, "layers-%d" % o.layers)
    copy, h5, packed = model + ".copy", model + ".h5", model + ".packed.h5"
    if not os.path.exists(model):
        generate(model, o.layers)
    size = sum(os.path.getsize(f) for f in files(model))
    convert = [os.path.join(o.build, "bin", "marlin-convert"), model, "-o", h5, "--no-tokenizer", "--force", "--quiet"]
    rates, peak = {"cp": [], "convert": []}, 0
    try:
        for _ in range(o.repeat):  # in turn, so that a drift of the machine meets both
            seconds, _ = timed(["cp", "-r", "--reflink=never", model, copy], model, copy)
            rates["cp"].append(size / seconds / 1e6)
            remove(copy)
            seconds, resident = timed(convert, model, h5)
            rates["convert"].append(size / seconds / 1e6)
            peak = max(peak, resident)
        print("%d layers, %d files, %.2f GB in, %.2f GB out, median of %d"
              % (o.layers, len(files(model)), size / 1e9, os.path.getsize(h5) / 1e9, o.repeat))
        for who, label in (("cp", "cp + fsync"), ("convert", "marlin-convert")):
            r = rates[who]
            print("%-16s %7.1f MB/s (%.1f..%.1f)" % (label, statistics.median(r), min(r), max(r)))
        print("ratio marlin-convert / cp: %.2f" % (statistics.median(rates["convert"]) / statistics.median(rates["cp"])))
        print("marlin-convert: peak resident %.0f MiB of %.0f MiB allowed" % (peak / 2**20, LIMIT / 2**20), flush=True)
        drop(h5)
        subprocess.run([os.path.join(o.build, "bin", "marlin-pack"), h5, "-o", packed, "--force"], check=True)
    finally:
        for path in (copy, h5, packed):
            remove(path)
    sys.exit(1 if peak >= LIMIT else 0)


main()
