#!/usr/bin/env python3
"""A server's life: clients that go away or read slowly, too much at once, keys, deadlines, draining, a rank that dies.

usage: life.py BUILD_DIR MODEL.h5 RANKS
"""
import json
import os
import signal
import subprocess
import sys
import threading
import time

from common import PROMPT, SANITIZED, Server, check, events, finish

BUILD, MODEL, NP = sys.argv[1], sys.argv[2], int(sys.argv[3])
C = "/v1/completions"
LONG = {"prompt": PROMPT, "max_tokens": 900, "ignore_eos": True, "temperature": 0}


def until(fn, seconds=20):
    end = time.time() + seconds
    while not fn() and time.time() < end:
        time.sleep(0.02)
    return fn()


def disconnects(s):
    def runs(n):
        return until(lambda: s.stats()["running"] + s.stats()["waiting"] >= n)

    def ends(name, sock, before):
        sock.close()
        t = time.time()
        gone = until(lambda: s.stats()["running"] == 0 and s.stats()["waiting"] == 0, 10)
        f = s.idle()
        check("%s: the client goes, the request too" % name, gone and f["requests_cancelled"] > before and
              f["kv_blocks_free"] == f["kv_blocks"], (time.time() - t, f))

    # 40 answers of 900 tokens take far longer than it takes to notice
    for name, body in (("streamed", dict(LONG, stream=True, n=40)), ("not streamed", dict(LONG, n=40)), ("waiting", dict(LONG, n=120))):
        before = s.stats()["requests_cancelled"]
        sock = s.stream_socket(C, body)
        check("%s: it runs" % name, runs(10))
        if name == "streamed":
            sock.recv(1000)
        ends(name, sock, before)


def slow_reader(s):
    body = dict(LONG, stream=True, n=2 if SANITIZED else 8, logprobs=20)
    slow = s.stream_socket(C, body, rcvbuf=4096)
    until(lambda: s.stats()["running"] > 0)
    t = time.time()
    quick = s.post(C, {"prompt": "KING", "max_tokens": 20, "temperature": 0, "ignore_eos": True})
    check("beside a reader that sleeps another gets its answer", quick[0] == 200 and quick[2]["usage"]["completion_tokens"] == 20, quick)
    stalled = [s.post(C, {"prompt": "KING", "max_tokens": 5})[0] for _ in range(5)]
    check("and another", stalled == [200] * 5, stalled)
    f = s.idle(120)
    check("its answer was computed all the same, or given up", f["running"] == 0, (time.time() - t, f))
    out = b""
    slow.settimeout(5)
    try:
        while True:
            piece = slow.recv(1 << 16)
            out += piece
            if not piece or b"[DONE]" in out or b'"error"' in out:
                break
    except OSError:
        pass
    slow.close()
    check("read late it is whole, or ends with an error that says why", b"[DONE]" in out or b"too slowly" in out, out[-300:])
    # text alone is small: it joins up and nothing is lost
    whole = s.post(C, dict(LONG, max_tokens=600))[2]["choices"][0]["text"]
    slow = s.stream_socket(C, dict(LONG, max_tokens=600, stream=True), rcvbuf=2048)
    until(lambda: s.stats()["running"] > 0, 2)
    s.idle(60)
    time.sleep(0.2)
    out = b""
    while b"[DONE]" not in out:
        piece = slow.recv(1 << 16)
        if not piece:
            break
        out += piece
    slow.close()
    head, _, rest = out.partition(b"\r\n\r\n")
    text = b""
    while rest:  # chunks
        size, _, rest = rest.partition(b"\r\n")
        n = int(size or b"0", 16)
        text, rest = text + rest[:n], rest[n + 2:]
        if n == 0:
            break
    got = "".join(e["choices"][0]["text"] for e in events(text.decode()) if e != "[DONE]")
    check("a slow reader's text is the same", got == whole, (len(got), len(whole)))


def too_much(build, model):
    with Server(build, model, NP, ["--max-queue", "8", "--max-seqs", "2"]) as s:
        sock = s.stream_socket(C, dict(LONG, n=7, stream=True))
        sock.recv(100)
        r = s.post(C, {"prompt": "x", "n": 4, "max_tokens": 2})
        check("429 with Retry-After when the queue is full", r[0] == 429 and r[1]["Retry-After"] and r[2]["error"]["code"] == "queue_full", r)
        sock.close()
        s.idle()
        check("and room again afterwards", s.post(C, {"prompt": "x", "n": 4, "max_tokens": 2})[0] == 200)
    with Server(build, model, NP, ["--request-timeout", "0.3", "--max-seqs", "1"]) as s:
        r = s.post(C, dict(LONG, n=30))
        check("504 when an answer takes longer than --request-timeout", r[0] == 504 and r[2]["error"]["code"] == "deadline_exceeded", r)
        r = s.post(C, dict(LONG, n=30, stream=True))
        last = events(r[2])[-1]
        check("in a stream as an event", r[0] == 200 and last["error"]["code"] == "deadline_exceeded", last)
        f = s.idle()
        check("its blocks are back", f["kv_blocks_free"] == f["kv_blocks"], f)


def keys(build, model):
    path = os.path.join(build, "keys.%d" % os.getpid())
    with open(path, "w") as f:
        f.write("# of the team\nfirst-key\r\n\nsecond-key\n")
    with Server(build, model, 1, ["--api-key-file", path, "--api-key", "third", "--cors-origin", "https://a.example"]) as s:
        os.unlink(path)
        for key, want in (("first-key", 200), ("second-key", 200), ("third", 200), ("thir", 401), ("third3", 401), ("", 401),
                          ("# of the team", 401), ("x" * 20000, 401)):
            r = s.request("GET", "/v1/models", headers={"Authorization": "Bearer " + key})
            check("key '%s': %d" % (key[:20], want), r[0] == want, r)
        check("no key: 401", s.get("/v1/models")[0] == 401 and s.get("/v1/models")[1]["WWW-Authenticate"] == "Bearer")
        check("another scheme: 401", s.request("GET", "/v1/models", headers={"Authorization": "Basic third"})[0] == 401)
        check("every path that tells or computes something asks", all(s.request(m, p, b"{}" if m == "POST" else None)[0] == 401 for m, p in (
            ("GET", "/v1/models"), ("GET", "/v1/models/x"), ("GET", "/stats"), ("POST", C), ("POST", "/v1/chat/completions"),
            ("POST", "/tokenize"), ("POST", "/detokenize"))))
        r = s.request("OPTIONS", C, headers={"Origin": "https://a.example"})
        check("CORS when asked for", r[0] == 204 and r[1]["Access-Control-Allow-Origin"] == "https://a.example", (r[0], r[1].items()))
        check("the key stands in no message", "third" not in s.err and "first-key" not in s.err, s.err)


def drain(build, model):
    n = 1 if SANITIZED else 8  # long enough for what follows
    with Server(build, model, NP, ["--drain-timeout", "200"]) as s:
        sock = s.stream_socket(C, dict(LONG, stream=True, n=n))
        sock.recv(100)
        answer = {}
        t = threading.Thread(target=lambda: answer.update(r=s.post(C, dict(LONG))))
        t.start()
        keep = s.stream_socket("/tokenize", {"prompt": "x"})
        keep.recv(4096)
        until(lambda: s.stats()["running"] == n + 1, 5)
        s.terminate()
        until(lambda: "no new requests" in s.err)
        keep.sendall(b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 14\r\n\r\n" + b'{"prompt": "x"}'[:14])
        late = keep.recv(4096)
        check("draining: 503 on a connection that was open", b" 503 " in late and b"shutting_down" in late, late)
        try:
            s.get("/health", timeout=5)
            check("draining: no new connections", False)
        except OSError:
            check("draining: no new connections", True)
        out = b""
        while True:
            piece = sock.recv(1 << 16)
            if not piece:
                break
            out += piece
        t.join(200)
        check("draining: a stream runs to its end", b"data: [DONE]" in out, out[-200:])
        check("draining: so does an answer", answer["r"][0] == 200 and answer["r"][2]["usage"]["completion_tokens"] == 900, str(answer)[:300])
    with Server(build, model, NP, ["--drain-timeout", "0.3"]) as s:
        sock = s.stream_socket(C, dict(LONG, stream=True, n=60))
        sock.recv(100)
        s.told = True
        for pid in s.ranks().values():  # as a batch system does it
            os.kill(pid, signal.SIGTERM)
        out = b""
        while True:
            piece = sock.recv(1 << 16)
            if not piece:
                break
            out += piece
        check("drain time over: the stream says so", b"shutting_down" in out[-400:], out[-400:])
        s.wait(30)
        check("and so does the log", "cut off" in s.err, s.err)


def dead_rank(build, model):
    s = Server(build, model, NP, want=None)
    with s:
        sock = s.stream_socket(C, dict(LONG, stream=True, n=40))
        sock.recv(100)
        answer = {}
        t = threading.Thread(target=lambda: answer.update(r=s.post(C, dict(LONG, n=40))))
        t.start()
        time.sleep(0.3)
        os.kill(s.ranks()[NP - 1], signal.SIGKILL)
        begun = time.time()
        out = b""
        while True:
            piece = sock.recv(1 << 16)
            if not piece:
                break
            out += piece
        t.join(30)
        check("a dead rank: a stream ends with an error", b'"code":"engine_failed"' in out[-600:] and out.endswith(b"0\r\n\r\n"), out[-600:])
        check("a dead rank: an answer is a 500", answer["r"][0] == 500 and answer["r"][2]["error"]["code"] == "engine_failed", answer)
        code = s.wait(30)
        check("a dead rank: the job ends, not with 0", code not in (0, None), (code, time.time() - begun))
        said = [l for l in s.err.splitlines() if "error:" in l]
        check("a dead rank: one report", len(said) == 1 and "rank %d" % (NP - 1) in said[0], s.err)


def idle(s):
    """Nothing to do costs nothing, on no rank, and the first answer afterwards is not late."""
    def seconds():
        t = {r: sum(int(x) for x in open("/proc/%d/stat" % p).read().rsplit(")", 1)[1].split()[11:13]) for r, p in s.ranks().items()}
        return {r: v / os.sysconf("SC_CLK_TCK") for r, v in t.items()}
    s.post(C, {"prompt": PROMPT, "max_tokens": 2})
    time.sleep(1)
    before, begun = seconds(), time.time()
    time.sleep(4)
    used = {r: (v - before[r]) / (time.time() - begun) for r, v in seconds().items()}
    check("idle: less than 2 % of a core on every rank", max(used.values()) < 0.02, used)


def addresses(build, model):
    def fails(*args, code=(64, 69)):
        p = subprocess.run([os.path.join(build, "bin", "marlin-worker"), model] + list(args), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
                           timeout=60, check=False)
        return p.returncode in code and p.stderr.decode().count("\n") <= 4
    for bad in ("x", ":8000", "127.0.0.1:99999", "::1:80", "127.0.0.1:", "no.such.host.invalid:80", "203.0.113.7:80"):
        check("--listen %s is refused" % bad, fails("--listen", bad))
    check("--listen and --prompt exclude each other", fails("--listen", "127.0.0.1:0", "--prompt", "x"))
    check("an empty key file is refused", fails("--listen", "127.0.0.1:0", "--api-key-file", "/dev/null"))
    p = subprocess.Popen([os.path.join(build, "bin", "marlin-worker"), model, "--listen", "0.0.0.0:0"], stdin=subprocess.DEVNULL,
                         stderr=subprocess.PIPE)
    said = []
    while not said or "serving" not in said[-1]:
        said.append(p.stderr.readline().decode() or "serving nothing")
    p.terminate()
    p.communicate(timeout=60)
    check("an open address without a key is served with a warning", p.returncode == 0 and "asks for no key" in said[-2], said)
    with Server(build, model, 1) as s:
        check("a port that is taken is refused", fails("--listen", "127.0.0.1:%d" % s.port))


def main():
    with Server(BUILD, MODEL, NP) as s:
        idle(s)
        disconnects(s)
        slow_reader(s)
    too_much(BUILD, MODEL)
    drain(BUILD, MODEL)
    if NP == 1:
        keys(BUILD, MODEL)
        addresses(BUILD, MODEL)
    else:
        dead_rank(BUILD, MODEL)
    finish()


main()
