#!/usr/bin/env python3
"""--batch-in, --batch-out: OpenAI's format, in order, each line what the server answers, resumable wherever it was cut.

usage: batch.py BUILD_DIR MODEL.h5 RANKS
"""
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

from common import MPIRUN, PROMPT, Server, check, finish

BUILD, MODEL, NP = sys.argv[1], sys.argv[2], int(sys.argv[3])
WORKER = os.path.join(BUILD, "bin", "marlin-worker")
seed = int(os.environ.get("MW_TEST_SEED", random.randrange(1 << 30)))
print("seed %d (MW_TEST_SEED)" % seed)
rng = random.Random(seed)


def line(i, **body):
    chat = "messages" in body
    return json.dumps({"custom_id": "r%d" % i, "method": "POST", "url": "/v1/chat/completions" if chat else "/v1/completions", "body": body})


def requests(n):
    out = []
    for i in range(n):
        if i % 3 == 0:
            body = {"messages": [{"role": "user", "content": "Say %d" % i}]}
        else:
            body = {"prompt": PROMPT + str(i)}
        out.append(line(i, max_tokens=rng.randrange(1, 24), temperature=0, **body))
    return out


def run(folder, lines, args=(), want=0, keep=True, np=NP):
    path, out = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")
    if not keep and os.path.exists(out):
        os.unlink(out)
    p = subprocess.run(([MPIRUN, "-np", str(np)] if np > 1 else []) + [WORKER, MODEL, "--threads", "1", "--batch-in", path, "--batch-out", out] +
                       list(args), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=300, check=False)
    check("exit code %d" % want, p.returncode == want, "%d: %s" % (p.returncode, p.stderr.decode()[-1500:]))
    data = open(out, "rb").read() if os.path.exists(out) else b""
    return data, p.stderr.decode()


def plain(o):
    """An answer without what differs from run to run."""
    o = json.loads(o)
    o.pop("id")
    if o["response"]:
        o["response"].pop("request_id")
        for k in ("id", "created"):
            o["response"]["body"].pop(k, None)
        if "usage" in o["response"]["body"]:
            o["response"]["body"]["usage"].pop("prompt_tokens_details")
    return o


def answers(folder):
    lines = requests(60)
    lines[7] = "this is not JSON"
    lines[8] = json.dumps({"custom_id": "r8", "method": "GET", "url": "/v1/completions", "body": {}})
    lines[9] = json.dumps({"custom_id": "r9", "method": "POST", "url": "/v1/embeddings", "body": {}})
    lines[10] = json.dumps({"method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}})
    lines[11] = line(11, prompt="x", temperature=-1)
    lines[12] = line(12, prompt="x", stream=True)
    lines[13] = line(13, prompt="x", model="nope")
    lines[14] = json.dumps({"custom_id": "r14", "method": "POST", "url": "/v1/completions"})
    lines[15] = line(15, prompt="word " * 3000)
    data, err = run(folder, lines[:30] + ["", "  "] + lines[30:])
    out = data.decode().splitlines()
    check("one answer a line", len(out) == 60 and data.endswith(b"\n"), len(out))
    o = [json.loads(x) for x in out]
    check("in order", [x["custom_id"] for x in o] == [None if i in (7, 10) else "r%d" % i for i in range(60)], [x["custom_id"] for x in o])
    bad = [i for i in range(60) if not o[i]["response"] or o[i]["response"]["status_code"] != 200]
    check("bad lines harm no other", bad == list(range(7, 16)), bad)
    check("what is no request has an error and no response", all(o[i]["response"] is None and o[i]["error"]["message"] for i in (7, 8, 9, 10, 14)), o[7:15])
    check("a refused request has its status and OpenAI's body", [o[i]["response"]["status_code"] for i in (11, 12, 13, 15)] == [400, 400, 404, 400] and
          all(o[i]["error"] is None and o[i]["response"]["body"]["error"]["message"] for i in (11, 12, 13, 15)), o[11:16])
    check("ids are different", len({x["response"]["request_id"] for x in o if x["response"] and x["response"]["status_code"] == 200}) == 51)
    check("the summary", "60 answers (0 kept" in err and "9 of the new ones" in err, err)
    with Server(BUILD, MODEL, NP) as s:
        same = True
        for i in (0, 1, 2, 20, 59):
            q = json.loads(lines[i])
            r = s.post(q["url"], q["body"])[2]
            a = o[i]["response"]["body"]
            same = same and r["choices"] == a["choices"] and r["object"] == a["object"]
        check("the server answers the same", same)


def resume(folder):
    lines = requests(80)
    whole, _ = run(folder, lines, keep=False)
    gold = [plain(x) for x in whole.splitlines()]
    out = os.path.join(folder, "out.jsonl")
    for cut in sorted(rng.randrange(len(whole)) for _ in range(4)) + [len(whole)]:
        with open(out, "wb") as f:
            f.write(whole[:cut])
        kept = whole[:cut].count(b"\n")
        data, err = run(folder, lines)
        head = whole[:cut].rfind(b"\n") + 1
        check("cut at byte %d: the rest is added" % cut, data[:head] == whole[:head] and [plain(x) for x in data.splitlines()] == gold, len(data))
        check("cut at byte %d: %d lines are kept" % (cut, kept), "(%d kept" % kept in err, err)
    with open(out, "wb") as f:
        f.write(whole)
    data, _ = run(folder, requests(5) + lines, want=73)
    check("another job's output is not touched", data == whole)


def stopped(folder):
    lines = [line(i, prompt=PROMPT, max_tokens=400, ignore_eos=True, temperature=0) for i in range(400)]
    path, out = os.path.join(folder, "in.jsonl"), os.path.join(folder, "out.jsonl")
    with open(path, "w") as f:
        f.write("\n".join(lines) + "\n")
    if os.path.exists(out):
        os.unlink(out)
    p = subprocess.Popen([WORKER, MODEL, "--threads", "1", "--batch-in", path, "--batch-out", out], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    end = time.time() + 60
    while time.time() < end and not (os.path.exists(out) and os.path.getsize(out)):
        time.sleep(0.02)
    p.send_signal(signal.SIGINT)
    err = p.communicate(timeout=60)[1].decode()
    data = open(out, "rb").read()
    check("Ctrl-C: code 130", p.returncode == 130, (p.returncode, err))
    check("Ctrl-C: what was finished stands there, in whole lines", 0 < data.count(b"\n") < 400 and data.endswith(b"\n") and
          all(json.loads(x)["response"]["status_code"] == 200 for x in data.splitlines()), data[-200:])


def main():
    with tempfile.TemporaryDirectory() as folder:
        answers(folder)
        resume(folder)
        if NP == 1:
            stopped(folder)
            run(folder, [], args=["--batch-in", "/nonexistent"], want=66)
            run(folder, [], args=["--batch-out", "/nonexistent/x"], want=73)
    finish()


main()
