#!/usr/bin/env python3
"""Many clients at once, some of whom go away: nothing is lost, every answer is the one it should be, nothing leaks, and the
time between tokens is told.

usage: load.py BUILD_DIR MODEL.h5 RANKS [REQUESTS [STREAMS]]        (10000 requests, 256 streams: the run of docs/SERVING.md)
"""
import asyncio
import json
import os
import random
import sys
import time

from common import SANITIZED, Server, check, finish

BUILD, MODEL, NP = sys.argv[1], sys.argv[2], int(sys.argv[3])
REQUESTS = int(sys.argv[4]) if len(sys.argv) > 4 else 200 if SANITIZED else 600
STREAMS = int(sys.argv[5]) if len(sys.argv) > 5 else 32 if SANITIZED else 64
seed = int(os.environ.get("MW_TEST_SEED", random.randrange(1 << 30)))
print("seed %d (MW_TEST_SEED)" % seed)
rng = random.Random(seed)
PROMPTS = ["%s:\n%s" % (who, what) for who in ("HAMLET", "KING", "JULIET", "First Citizen") for what in ("", "I am ", "What ", "The king")]
MOST = 40
gold = {}
count = {"streamed": 0, "whole": 0, "left mid-stream": 0, "left waiting": 0}
itl, ttft, wrong, stalls = [], [], [], 0


async def post(port, body):
    r, w = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body).encode()
    w.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
            len(data) + data)
    await w.drain()
    return r, w


async def head(r):
    status = int((await r.readline()).split()[1])
    chunked = False
    while (line := await r.readline()) not in (b"\r\n", b""):
        chunked = chunked or b"chunked" in line
    return status, chunked


async def sse(r):
    """Events of a chunked stream, as they come."""
    buf = b""
    while True:
        size = await r.readline()
        n = int(size or b"0", 16)
        if n == 0:
            return
        buf += await r.readexactly(n)
        await r.readexactly(2)
        while b"\n\n" in buf:
            event, _, buf = buf.partition(b"\n\n")
            yield event[6:].decode()


async def streamed(port, prompt, n, leave_after):
    begun = last = time.perf_counter()
    r, w = await post(port, {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True, "stream": True,
                             "stream_options": {"include_usage": True}})
    status, _ = await head(r)
    text, usage, done, chunks = "", None, False, 0
    async for event in sse(r):
        now = time.perf_counter()
        if event == "[DONE]":
            done = True
            continue
        data = json.loads(event)
        if data.get("choices"):
            (itl if chunks else ttft).append(now - (last if chunks else begun))
            last, chunks, text = now, chunks + 1, text + data["choices"][0]["text"]
            if chunks == leave_after:
                w.transport.abort()
                count["left mid-stream"] += 1
                return
        usage = data.get("usage") or usage
    w.close()
    count["streamed"] += 1
    if not (status == 200 and done and usage and usage["completion_tokens"] == n and gold[prompt].startswith(text) and text):
        wrong.append((prompt, n, status, done, usage, text))


async def whole(port, prompt, n, leave):
    r, w = await post(port, {"prompt": prompt, "max_tokens": n, "temperature": 0, "ignore_eos": True})
    if leave:
        await asyncio.sleep(rng.random() * 0.2)
        w.transport.abort()
        count["left waiting"] += 1
        return
    status, _ = await head(r)
    data = json.loads(await r.read())
    w.close()
    count["whole"] += 1
    if not (status == 200 and data["usage"]["completion_tokens"] == n and gold[prompt].startswith(data["choices"][0]["text"])):
        wrong.append((prompt, n, status, data))


async def client(port, todo):
    global stalls
    while todo:
        todo.pop()
        prompt, n, kind = rng.choice(PROMPTS), rng.randrange(2, MOST + 1), rng.random()
        if kind < 0.8:
            job = streamed(port, prompt, n, rng.randrange(1, n) if kind < 0.2 else -1)
        else:
            job = whole(port, prompt, n, kind < 0.9)
        try:
            await asyncio.wait_for(job, 120)
        except asyncio.TimeoutError:
            stalls += 1


async def drive(port, requests, streams):
    todo = list(range(requests))
    await asyncio.gather(*(client(port, todo) for _ in range(streams)))


def resident(pid):
    for line in open("/proc/%d/status" % pid):
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1e3  # MB
    return 0


def state(s):
    f = s.idle(30)
    time.sleep(0.5)
    ranks = s.ranks()
    return {"free": f["kv_blocks_free"], "blocks": f["kv_blocks"], "fds": {r: len(os.listdir("/proc/%d/fd" % p)) for r, p in ranks.items()},
            "rss": {r: round(resident(p), 1) for r, p in ranks.items()}, "done": f["requests_done"], "cancelled": f["requests_cancelled"]}


def percentile(v, p):
    return sorted(v)[min(len(v) - 1, int(p * len(v)))] * 1e3 if v else float("nan")


def main():
    with Server(BUILD, MODEL, NP, ["--max-seqs", "256", "--ctx", "256"]) as s:
        for p in PROMPTS:
            gold[p] = s.post("/v1/completions", {"prompt": p, "max_tokens": MOST, "temperature": 0, "ignore_eos": True})[2]["choices"][0]["text"]
        asyncio.run(drive(s.port, max(REQUESTS // 10, 2 * STREAMS), STREAMS))  # memory pools take their size
        before = state(s)
        for v in (itl, ttft):
            v.clear()
        for k in count:
            count[k] = 0
        begun = time.time()
        asyncio.run(drive(s.port, REQUESTS, STREAMS))
        seconds = time.time() - begun
        after = state(s)
        print("%d requests, %d at once, np %d: %.1f s, %d tokens streamed, %.0f tokens/s" %
              (REQUESTS, STREAMS, NP, seconds, len(itl) + len(ttft), (len(itl) + len(ttft)) / seconds))
        print("TTFT p50 %.0f ms, p99 %.0f ms; ITL p50 %.1f ms, p99 %.1f ms, max %.0f ms" %
              (percentile(ttft, 0.5), percentile(ttft, 0.99), percentile(itl, 0.5), percentile(itl, 0.99), percentile(itl, 1)))
        print(count, before, after)
        check("every request was answered or left", sum(count.values()) == REQUESTS and stalls == 0, (count, stalls))
        check("every answer is the one it should be", not wrong, wrong[:3])
        check("all blocks are back", after["free"] == after["blocks"] == before["free"], after)
        check("no descriptor is lost", all(after["fds"][r] <= before["fds"][r] + 2 for r in after["fds"]), (before["fds"], after["fds"]))
        if SANITIZED:
            print("(memory is not compared: a sanitizer keeps freed memory)")
        else:
            check("no memory is lost", all(after["rss"][r] <= before["rss"][r] + 12 for r in after["rss"]), (before["rss"], after["rss"]))
    finish()


main()
