#!/usr/bin/env python3
"""The whole job against golden numbers: marlin-worker on real checkpoints, any number of ranks, packed and unpacked.

usage: golden.py BUILD_DIR demo|all|FOLDER NP[,NP...] [cpu|cuda]

  demo    the model shipped in launch/demo against tests/data/golden/demo.json (works in a plain clone)
  all     every checkpoint of ../shared/checkpoints, converted and packed here (skipped, by name, where it is absent)
  FOLDER  the same for a copy of that folder; a NAME.h5 in it is taken instead of a conversion of NAME

Checked: greedy ids up to the first step whose recorded margin lies inside the bound; last-position log-probabilities of the
whole vocabulary and per-position log-probabilities of a prompt within the bound; perplexity within 0.1 % of the golden one.
The bound on a logit is docs/NUMERICS.md's. Standard library only.
"""
import ast
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
import zipfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
SHARED = os.path.join(ROOT, "..", "shared", "checkpoints")
DEMO = os.path.join(ROOT, "launch", "demo", "shakespeare-11m-gptq.h5")
DEMO_GOLDEN = os.path.join(ROOT, "tests", "data", "golden", "demo.json")
BACKEND = sys.argv[4] if len(sys.argv) > 4 else "cpu"
BOUND = {"cpu": 0.005, "cuda": 0.02}[BACKEND] # on a logit and on a log-probability, absolute (docs/NUMERICS.md)
PPL = 0.001   # relative


def run(build, np, args, stdin=None):
    cmd = [os.path.join(build, "bin", "marlin-worker")] + args + ["--backend", BACKEND]
    if np > 1:
        cmd = [os.path.join(ROOT, "launch", "mpirun"), "-np", str(np)] + cmd
    p = subprocess.run(cmd, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=300)
    if p.returncode != 0:
        raise SystemExit("FAILED: %s\nexit code %d\n%s" % (" ".join(cmd), p.returncode, p.stderr.decode()))
    return p.stdout.decode()


def load_npz_rows(path):
    """The f32 vectors of an .npz file, without numpy."""
    rows = {}
    with zipfile.ZipFile(path) as z:
        for name in z.namelist():
            raw = z.read(name)
            assert raw[:6] == b"\x93NUMPY" and raw[6] == 1
            n = struct.unpack("<H", raw[8:10])[0]
            head = ast.literal_eval(raw[10:10 + n].decode())
            if head["descr"] != "<f4" or len(head["shape"]) != 1:
                continue
            rows[name[:-4]] = struct.unpack("<%df" % head["shape"][0], raw[10 + n:])
    return rows


def log_softmax(x):
    top = max(x)
    norm = top + math.log(sum(math.exp(v - top) for v in x))
    return [v - norm for v in x]


class Report:
    def __init__(self, name):
        self.name, self.bad, self.worst = name, [], 0.0

    def close(self, what, got, want, bound):
        d = abs(got - want)
        if not d <= bound:
            self.bad.append("%s: %.6f, expected %.6f (off by %.2e, bound %g)" % (what, got, want, d, bound))
        return d

    def logit(self, what, got, want):
        self.worst = max(self.worst, self.close(what, got, want, BOUND))


def check_generation(r, gold, last_logits, prompts, answers, scored):
    for i, (p, g, a) in enumerate(zip(prompts, gold["prompts"], answers)):
        if "error" in a:
            r.bad.append("prompt %d: %s" % (i, a["error"]))
            continue
        ids, want, margin = a["token_ids"], g["greedy_ids"], g["greedy_margin"]
        # Near a tie any arithmetic may choose the other token; from there on the texts may differ.
        safe = next((s for s, m in enumerate(margin) if m <= 2 * BOUND), len(want))
        if ids[:safe] != want[:safe]:
            r.bad.append("prompt %d: greedy ids differ before step %d: %s" % (i, safe, ids[:safe]))
        if a["usage"]["prompt_tokens"] != len(p["ids"]):
            r.bad.append("prompt %d: %d prompt tokens" % (i, a["usage"]["prompt_tokens"]))
        # Last prompt position: all log-probabilities that were asked for against the golden logits.
        want_lp = log_softmax(last_logits[i])
        top = scored[i]["logprobs"][0]["top"]
        if len(top) != len(want_lp):
            r.bad.append("prompt %d: %d of %d log-probabilities" % (i, len(top), len(want_lp)))
        for t in top:
            r.logit("prompt %d, last position, token %d" % (i, t["token_id"]), t["logprob"], want_lp[t["token_id"]])
    for pos, want in enumerate(gold["prompt0_positions"][:-1]):
        got = scored[0]["prompt_logprobs"][pos]
        if got["token_id"] != want["next_prompt_token"]:
            r.bad.append("prompt 0, position %d: token %d" % (pos, got["token_id"]))
        r.logit("prompt 0, position %d" % pos, got["logprob"], want["next_prompt_token_logprob"])
        top = {t["token_id"]: t["logprob"] for t in got["top"]}
        for t, lp in zip(want["top5_ids"], want["top5_logprobs"]):
            r.logit("prompt 0, position %d, token %d" % (pos, t), top[t], lp)


def check_model(build, name, model, gold, last_logits, prompts, ppl_rows, nps):
    failed = False
    ppl_file = tempfile.NamedTemporaryFile("w", suffix=".json")
    json.dump(ppl_rows, ppl_file)
    ppl_file.flush()
    for np in nps:
        r = Report("%s, np %d" % (name, np))
        lines = [{"id": i, "prompt_token_ids": p["ids"], "max_tokens": 64, "ignore_eos": True}
                 for i, p in enumerate(prompts)]
        lines += [{"id": len(prompts) + i, "prompt_token_ids": p["ids"], "max_tokens": 1, "logprobs": len(last_logits[i]),
                   "prompt_logprobs": 1000 if i == 0 else None} for i, p in enumerate(prompts)]
        out = run(build, np, [model, "--jsonl", "--quiet"], "\n".join(map(json.dumps, lines)).encode()).splitlines()
        answers = [json.loads(l) for l in out]
        assert [a["id"] for a in answers] == list(range(2 * len(prompts))), out
        check_generation(r, gold, last_logits, prompts, answers[:len(prompts)], answers[len(prompts):])
        ppl = json.loads(run(build, np, [model, "--perplexity", ppl_file.name, "--quiet"]))
        if ppl["tokens"] != gold["val_tokens_scored"]:
            r.bad.append("perplexity over %d tokens, expected %d" % (ppl["tokens"], gold["val_tokens_scored"]))
        r.close("perplexity", ppl["perplexity"], gold["val_ppl"], PPL * gold["val_ppl"])
        print("%-38s worst logit %.1e (bound %g), perplexity %.4f (golden %.4f)%s"
              % (r.name, r.worst, BOUND, ppl["perplexity"], gold["val_ppl"], "  FAILED" if r.bad else ""), flush=True)
        for b in r.bad[:10]:
            print("    " + b)
        failed |= bool(r.bad)
    return failed


def tool(build, name, args):
    p = subprocess.run([os.path.join(build, "bin", name)] + args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if p.returncode != 0:
        raise SystemExit("FAILED: %s %s\n%s" % (name, " ".join(args), p.stdout.decode()))


def all_checkpoints(build, folder, nps):
    if not os.path.isdir(folder):
        print("SKIPPED: golden.py all: ../shared is absent")
        return 1 if os.environ.get("MW_TEST_NO_SKIP") == "1" else 77
    golden = json.load(open(os.path.join(folder, "golden.json")))
    rows = load_npz_rows(os.path.join(folder, "golden_logits.npz"))
    failed = False
    with tempfile.TemporaryDirectory() as tmp:
        for name, gold in golden["checkpoints"].items():
            plain, packed = os.path.join(tmp, name + ".h5"), os.path.join(tmp, name + ".packed.h5")
            if os.path.exists(os.path.join(folder, name + ".h5")):
                plain = os.path.join(folder, name + ".h5")
            elif os.path.isdir(os.path.join(folder, name)):
                extra = ["--quantize", "none"] if name == "fp16" else []
                tool(build, "marlin-convert", [os.path.join(folder, name), "-o", plain, "--quiet"] + extra)
            else:
                print("SKIPPED: %s is not in %s" % (name, folder))
                continue
            tool(build, "marlin-pack", [plain, "-o", packed, "--verify", "--quiet"])
            last = [rows["%s.p%d" % (name, i)] for i in range(len(golden["prompts"]))]
            for label, model, some in ((name, plain, nps), (name + ", packed", packed, nps)):
                failed |= check_model(build, label, model, gold, last, golden["prompts"], golden["ppl_tokens"], some)
    return failed


def demo(build, nps):
    d = json.load(open(DEMO_GOLDEN))
    return check_model(build, "demo", DEMO, d["gold"], d["last_logits"], d["prompts"], d["ppl_tokens"], nps)


def main():
    build, what, nps = sys.argv[1], sys.argv[2], [int(n) for n in sys.argv[3].split(",")]
    sys.exit(int(demo(build, nps) if what == "demo" else all_checkpoints(build, SHARED if what == "all" else what, nps)))


main()
