#!/usr/bin/env python3
"""marlin-bench: every benchmark on tiny sizes, with 1 and 2 ranks; output formats; --compare; wrong flags; serve against a
small server of this script's own and against marlin-worker --listen.

usage: bench.py BUILD_DIR MODEL.h5 [tool|run]...
"""
import csv
import http.server
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

os.environ["MARLIN_BACKEND"] = "cpu" # also where there are GPUs, which this many ranks would not find
os.environ["MARLIN_THREADS"] = "1"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD, MODEL = sys.argv[1], sys.argv[2]
BENCH = os.path.join(BUILD, "bin", "marlin-bench")
MPIRUN = os.path.join(ROOT, "launch", "mpirun")
TMP = tempfile.mkdtemp(prefix="mw_bench_")
TINY = ["--synthetic", "tiny"]
failures = 0


def check(name, ok, detail=""):
    global failures
    print("%-70s %s" % (name, "ok" if ok else "FAILED  " + str(detail)[:1500]), flush=True)
    failures += not ok


def run(args, np=1, want=0, env=None):
    cmd = ([MPIRUN, "-np", str(np)] if np > 1 else []) + [BENCH] + args
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=240, env=env)
    if p.returncode != want:
        check("exit code of " + " ".join(args), False, "%d, expected %d: %s" % (p.returncode, want, p.stderr.decode()))
    return p.stdout.decode(), p.stderr.decode()


def rows(args, np=1):
    out, err = run(args + ["--output", "jsonl"], np)
    lines = [json.loads(l) for l in out.splitlines()]
    check("%s, np %d: says what it ran on" % (args[0], np), lines and "date" in lines[0].get("machine", {}) and
          "MPI" in lines[0]["machine"] and lines[0]["machine"]["ranks"] == np, out[:300] + err)
    return lines[1:]


def positive(row, *keys):
    return all(isinstance(row.get(k), (int, float)) and row[k] > 0 for k in keys)


def kernels():
    for np in (1, 2):
        got = rows(["gemm"] + TINY + ["-b", "1,17", "-r", "2"], np)
        check("gemm, np %d: four layers and a mean, two sizes each" % np, len(got) == 10 and
              [r["layer"] for r in got[0::2]] == ["qkv", "o", "gate_up", "down", "mean"] and got[0]["tp"] == np, got)
        check("gemm, np %d: times, ceilings, errors" % np, all(
            positive(r, "us", "us_p10", "us_p90", "read_us", "dense_us", "x_read", "x_dense", "gbps", "tflops")
            and r["us_p10"] <= r["us"] <= r["us_p90"] and 0 < r["error"] <= 1 for r in got[:8]), got)
    got = rows(["gemm", "--shapes", "512x1024,64x64", "--group", "-1", "--zeros", "-b", "3", "--no-reference", "-r", "1"])
    check("gemm: shapes of one's own, a scale a column, zeros", [(r.get("k"), r.get("n"), r.get("group")) for r in got[:2]] ==
          [(512, 1024, 512), (64, 64, 64)] and "dense_us" not in got[0], got)
    got = rows(["gemm", MODEL, "--cpu-act", "int8", "-b", "2", "-r", "1"])
    check("gemm: a model file's shapes, int8 activations", len(got) == 5 and got[0]["model"] == os.path.basename(MODEL), got)
    for np in (1, 2):
        got = rows(["attention"] + TINY + ["-b", "1,3", "-d", "40", "-p", "33", "-r", "2"], np)
        check("attention, np %d: decode and prefill" % np, [r["test"] for r in got] == ["attention decode"] * 2 +
              ["attention prefill"] and all(positive(r, "us", "gbps") and r["error"] <= 1 for r in got), got)
    got = rows(["attention", "--heads", "6/3x40", "--dtype", "bf16", "-b", "2", "-d", "17", "-p", "20", "-r", "1"])
    check("attention: heads of one's own", got and got[0]["heads"] == "6/3x40" and got[0]["dtype"] == "bf16", got)
    got = rows(["allreduce", "-b", "1K", "-e", "16K", "-f", "4", "-r", "2"], 2)
    check("allreduce, np 2", [r["bytes"] for r in got] == [1024, 4096, 16384] and all(
        positive(r, "us", "algbw", "busbw", "library_us") and r["wrong"] == 0 and abs(r["busbw"] - r["algbw"]) < 1e-3 * r["algbw"]
        for r in got), got)


def engine():
    for np in (1, 2):
        got = rows(["decode"] + TINY + ["-n", "8,16", "-d", "16", "-b", "1,3", "-r", "2"], np)
        check("decode, np %d: llama-bench's names" % np, [(r["test"], r["batch"]) for r in got] ==
              [("tg8", 1), ("tg16", 1), ("tg8", 3), ("tg16", 3)] and all(positive(r, "tps", "itl_ms", "limit_tps", "x_limit")
              for r in got), got)
        got = rows(["prefill"] + TINY + ["-p", "32,64", "-r", "2"], np)
        check("prefill, np %d" % np, [r["test"] for r in got] == ["pp32", "pp64"] and
              all(positive(r, "tps", "ttft_ms", "tflops", "dense_tflops", "x_dense") for r in got), got)
        got = rows(["load", MODEL, "-r", "2"], np)
        check("load, np %d" % np, len(got) == 1 and positive(got[0], "load_s", "first_s", "gbps", "plain_gbps", "x_plain") and
              got[0]["first_s"] >= got[0]["load_s"], got)
        got = rows(["throughput", MODEL, "--num-prompts", "6", "--input-len", "20", "--output-len", "6", "--range-ratio", "0.5",
                    "--max-concurrency", "1,4", "--goodput", "ttft:100000"], np)
        check("throughput, np %d" % np, [r["concurrency"] for r in got] == [1, 4] and all(
            r["completed"] == 6 and r["failed"] == 0 and positive(r, "request_throughput", "output_throughput", "median_ttft_ms",
            "p99_tpot_ms", "median_itl_ms", "mean_e2el_ms", "x_ideal") and r["request_goodput"] == r["request_throughput"]
            and 6 * 3 <= r["total_output_tokens"] <= 6 * 9 for r in got), got)
    data = os.path.join(TMP, "prompts.jsonl")
    with open(data, "w") as f:
        f.write('{"prompt": "To be, or not", "output_len": 5}\n\n{"prompt_token_ids": [5, 6, 7]}\n')
    got = rows(["throughput", MODEL, "--dataset", data, "--num-prompts", "4", "--output-len", "3", "--max-concurrency", "2",
                "--request-rate", "200"])
    check("throughput: a dataset, arrivals", got and got[0]["total_output_tokens"] == 16 and got[0]["rate"] == "200", got)
    with open(data, "w") as f:
        f.write('{"prompt": 7}\n')
    _, err = run(["throughput", MODEL, "--dataset", data, "--max-concurrency", "1"], want=65)
    check("throughput: a wrong dataset is named", "prompts.jsonl" in err and "prompt" in err, err)


def files():
    args = ["gemm"] + TINY + ["-b", "1", "-r", "1"]
    out, _ = run(args)
    table = [l for l in out.splitlines() if l.startswith("|")]
    check("md: a table whose lines have equally many cells", len(table) == 7 and len({l.count("|") for l in table}) == 1 and
          "x read" in table[0] and set(table[1]) <= set("|-:"), out)
    path = os.path.join(TMP, "a.json")
    run(args + ["--output", "json", "--output-file", path])
    data = json.load(open(path))
    check("json: machine and rows", data["machine"]["benchmark"] == "gemm" and len(data["rows"]) == 5 and
          all(r["id"] and r["metric"] in r and r["better"] in ("higher", "lower") for r in data["rows"]), data)
    out, _ = run(["gemm", "--shapes", "128x64"] + ["-b", "1,2", "-r", "1", "--output", "csv"])
    body = list(csv.DictReader(io.StringIO("\n".join(l for l in out.splitlines() if not l.startswith("#")))))
    check("csv: parsed back", [r["m"] for r in body[:2]] == ["1", "2"] and float(body[0]["us"]) > 0, out)
    compare(path, data)


def compare(path, data):
    args = ["gemm"] + TINY + ["-b", "1", "-r", "1"]
    for factor, want in ((1e-6, 68), (1e6, 0)):
        old = json.loads(json.dumps(data))
        for r in old["rows"]:
            r[r["metric"]] *= factor
        name = os.path.join(TMP, "old.json")
        json.dump(old, open(name, "w"))
        out, err = run(args + ["--compare", name, "--threshold", "50"], want=want)
        check("compare: an old run %g times as fast ends with %d" % (1 / factor, want),
              "geometric mean" in out and ("worse" in err) == (want == 68), out + err)
    name = os.path.join(TMP, "old.jsonl")
    with open(name, "w") as f:
        f.write(json.dumps({"machine": {}}) + "\n" + "".join(json.dumps(r) + "\n" for r in old["rows"]))
    out, _ = run(args + ["--compare", name, "--threshold", "50"])
    check("compare: JSON lines", "5 rows" in out, out)
    run(["gemm", "--shapes", "128x64", "-b", "1", "-r", "1", "--compare", path], want=65)
    run(args + ["--compare", os.path.join(TMP, "none.json")], want=66)
    with open(name, "w") as f:
        f.write("hello\n")
    _, err = run(args + ["--compare", name], want=65)
    check("compare: a file of another kind is named", "old.jsonl" in err, err)


def plots():
    args = ["gemm"] + TINY + ["-b", "1,2", "-r", "1"]
    empty = dict(os.environ, PATH=TMP)
    _, err = run(args + ["--plot", os.path.join(TMP, "x.svg")], want=69, env=empty)
    check("plot: without gnuplot its package is named", "gnuplot-nox" in err, err)
    run(args + ["--plot", "x.pdf"], want=64)
    if not shutil.which("gnuplot"):
        print("SKIPPED: plots: gnuplot is not installed")
        check("MW_TEST_NO_SKIP", os.environ.get("MW_TEST_NO_SKIP", "0") != "1")
        return
    for suffix, head in ((".svg", b"<?xml"), (".png", b"\x89PNG")):
        name = os.path.join(TMP, "it's" + suffix)
        _, err = run(args + ["--plot", name])
        check("plot: " + suffix, os.path.exists(name) and open(name, "rb").read(5).startswith(head[:5]), err)
    name = os.path.join(TMP, "both.svg")
    run(["decode"] + TINY + ["-n", "4", "-d", "8", "-r", "1", "--output", "jsonl", "--output-file", os.path.join(TMP, "1.jsonl")])
    run(["decode"] + TINY + ["-n", "4", "-d", "8", "-r", "1", "--output", "json", "--output-file", os.path.join(TMP, "2.json")], 2)
    run(["plot", os.path.join(TMP, "1.jsonl"), os.path.join(TMP, "2.json"), "--plot", name])
    text = open(name).read()
    check("plot: runs of several numbers of ranks in one picture", "decode: scaling" in text and "ranks 2" in text, text[:500])
    run(["plot", "--plot", name], want=64)
    run(["plot", os.path.join(TMP, "none.json"), "--plot", name], want=66)


def flags():
    out, _ = run(["--help"])
    check("--help lists the benchmarks", all(w in out for w in ("gemm", "attention", "allreduce", "load", "decode", "prefill",
                                                                   "throughput", "serve", "all")), out)
    out, _ = run(["--version"])
    check("--version", "marlin-bench" in out and "MPI" in out, out)
    for kind, words in (("gemm", ("shapes", "zeros", "tp")), ("decode", ("n-gen", "n-depth", "max-seqs")),
                        ("serve", ("base-url", "goodput", "request-rate", "max-concurrency")), ("allreduce", ("minbytes",))):
        out, _ = run([kind, "--help"])
        check("%s --help has its flags and only those" % kind, all("--" + w in out for w in words) and
              ("--base-url" in out) == (kind == "serve"), out)
    for args in ([], ["nothing"], ["gemm", "--base-url", "x"], ["serve", "--tp", "2"], ["gemm", "-b", "0"], ["gemm", "-b", "1,x"],
                 ["decode", "-n", "1"], ["gemm", "--output", "xml"], ["gemm", "--shapes", "12x12"], ["gemm", "--group", "48"],
                 ["gemm", "--synthetic", "gpt-9"], ["serve", "--goodput", "itl:3"], ["serve", "--endpoint", "/x"],
                 ["serve", "model.h5"], ["allreduce"], ["throughput", "--range-ratio", "1"], ["attention", "--heads", "7/2x64"]):
        _, err = run(args, want=64)
        check("refused with words: " + " ".join(args), err.strip() != "", err)
    _, err = run(["gemm", "--no-such-flag"], 2, want=64)
    check("a wrong flag on two ranks is reported once", err.count("unrecognized option") == 1, err)
    run(["gemm"] + TINY + ["-b", "1", "-r", "1", "--output-file", os.path.join(TMP, "no", "such", "x.json")], want=73)
    run(["decode", os.path.join(TMP, "none.h5")], want=66)
    if os.path.exists("/dev/full"):
        run(["gemm", "--shapes", "128x64", "-b", "1", "-r", "1", "--output-file", "/dev/full"], want=74)


class Fake(http.server.BaseHTTPRequestHandler):
    """A server with known times: TOKENS pieces, GAP apart, the first after FIRST seconds."""
    protocol_version = "HTTP/1.1"
    FIRST, GAP = 0.10, 0.02
    seen, running, most = [], 0, 0
    lock = threading.Lock()

    def log_message(self, *args):
        pass

    def answer(self, code, body, kind="application/json"):
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer(200, b'{"data": [{"id": "fake-7b"}]}')

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with Fake.lock:
            Fake.seen.append((time.monotonic(), self.path, body, self.headers.get("Authorization")))
            number = len(Fake.seen)
            Fake.running += 1
            Fake.most = max(Fake.most, Fake.running)
        try:
            if body["model"] == "broken" and number % 2:
                return self.answer(503, b'{"error": {"message": "try later"}}')
            self.stream(body)
        finally:
            with Fake.lock:
                Fake.running -= 1

    def chunk(self, data):
        text = b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"
        self.wfile.write(b"%x\r\n%s\r\n" % (len(text), text))
        self.wfile.flush()

    def stream(self, body):
        chat = "messages" in body
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if chat:
            self.chunk({"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        time.sleep(self.FIRST)
        for i in range(body["max_tokens"]):
            if i:
                time.sleep(self.GAP)
            piece = {"delta": {"content": "a"}} if chat else {"text": "a"}
            self.chunk({"choices": [dict(piece, finish_reason=None)]})
        last = {"delta": {}} if chat else {"text": ""}
        self.chunk({"choices": [dict(last, finish_reason="length")]})
        self.chunk({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": body["max_tokens"]}})
        self.chunk(b"[DONE]")
        self.wfile.write(b"0\r\n\r\n")


def serve_fake():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Fake)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = ["serve", "--base-url", "http://127.0.0.1:%d" % server.server_port]
    got = rows(url + ["--num-prompts", "6", "--max-concurrency", "3", "--input-len", "4", "--output-len", "5",
                      "--goodput", "ttft:50"])[0]
    sent = Fake.seen[0][2]
    check("serve: what is asked", sent["stream"] is True and sent["max_tokens"] == 5 and len(sent["prompt"]) == 4 and
          sent["ignore_eos"] is True and sent["temperature"] == 0 and sent["stream_options"] == {"include_usage": True}, sent)
    check("serve: all answered, the model's name, never more than three at once", got["completed"] == 6 and got["failed"] == 0 and
          got["model"] == "fake-7b" and Fake.most == 3, (got, Fake.most))
    # The server's own sleeps are lower bounds; a loaded machine only adds to them, by how much nobody knows.
    check("serve: TTFT and TPOT are the server's", 95 <= got["median_ttft_ms"] < 2000 and 19 <= got["median_tpot_ms"] < 500 and
          19 <= got["median_itl_ms"] < 500 and got["median_e2el_ms"] >= 100 + 4 * 19, got)
    check("serve: tokens and goodput", got["total_output_tokens"] == 30 and got["total_input_tokens"] == 54 and
          got["request_goodput"] == 0, got)
    del Fake.seen[:]
    key = os.path.join(TMP, "key")
    open(key, "w").write("sesame\n")
    got = rows(url + ["--num-prompts", "4", "--max-concurrency", "4", "--request-rate", "20", "--output-len", "2", "--endpoint",
                      "/v1/chat/completions", "--api-key-file", key, "--no-ignore-eos", "--model", "mine"])[0]
    check("serve: chat, a key, a name", got["total_output_tokens"] == 8 and Fake.seen[0][3] == "Bearer sesame" and
          Fake.seen[0][2]["messages"][0]["role"] == "user" and "ignore_eos" not in Fake.seen[0][2] and got["model"] == "mine", got)
    check("serve: requests arrive one after the other", Fake.seen[-1][0] - Fake.seen[0][0] > 0.01, Fake.seen)
    got = rows(url + ["--num-prompts", "4", "--max-concurrency", "1", "--output-len", "2", "--model", "broken"])[0]
    check("serve: refused requests are counted", got["failed"] == 2 and got["completed"] == 2, got)
    server.shutdown()
    server.server_close()
    _, err = run(url + ["--num-prompts", "1"], want=69)
    check("serve: nobody there", "127.0.0.1" in err, err)
    run(url, 2, want=64)


def serve_ours():
    """Our own server, started by the same words as a user's."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    worker = subprocess.Popen([os.path.join(BUILD, "bin", "marlin-worker"), MODEL, "--listen", "127.0.0.1:%d" % port],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    url = ["serve", "--base-url", "http://127.0.0.1:%d" % port]
    try:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.1)
        got = rows(url + ["--num-prompts", "5", "--max-concurrency", "1,3", "--input-len", "8", "--output-len", "6"])
        check("serve: marlin-worker --listen, token ids", [r["completed"] for r in got] == [5, 5] and
              all(r["total_output_tokens"] == 30 and r["total_input_tokens"] == 40 and positive(r, "median_ttft_ms") for r in got),
              got)
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.communicate(timeout=60)


def everything():
    args = ["all"] + TINY + ["-r", "1", "-t", "1"]
    got = rows(args, 1)
    kinds = {r["test"].split()[0] for r in got}
    check("all: one of each but the ones between ranks", {"gemm", "attention", "load", "tg128", "pp512", "throughput"} == kinds, kinds)


PARTS = {"tool": [flags, files, plots, serve_fake], "run": [kernels, engine, serve_ours, everything]}
try:
    for part in sys.argv[3:] or PARTS:
        for test in PARTS[part]:
            test()
finally:
    shutil.rmtree(TMP)
sys.exit(1 if failures else 0)
