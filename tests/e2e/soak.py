"""soak.py WORKER MODEL BACKEND NP [--seconds S]: mixed load for S seconds (default 300) through one worker, which must leak
nothing: device memory, KV blocks, file descriptors, threads and resident memory after the load are what they were once it
was warm. Then each rank is killed in the middle of steps: the job must end within 10 s, with a code other than 0 and at
most one report, and with the GPUs' memory free again. WORKER: bin/marlin-worker of a build or of a bundle."""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time

ARGS = argparse.ArgumentParser()
ARGS.add_argument("worker")
ARGS.add_argument("model")
ARGS.add_argument("backend", choices=["cpu", "cuda"])
ARGS.add_argument("np", type=int)
ARGS.add_argument("--seconds", type=float, default=300)
ARGS.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 30))
A = ARGS.parse_args()
RNG = random.Random(A.seed)
OUTSTANDING = 48
CTX, VOCAB = 1024, 2000  # ids that every model has; a context that long prompts fill


def launcher():
    home = os.path.dirname(os.path.dirname(os.path.abspath(A.worker)))
    for path in (home + "/bin/marlin-mpirun", os.path.dirname(os.path.abspath(__file__)) + "/../../launch/mpirun"):
        if os.path.exists(path):
            return path
    sys.exit("no launcher beside " + A.worker)


def gpu_memory():
    """MiB in use on each GPU; [] on CPUs."""
    if A.backend == "cpu":
        return []
    out = subprocess.run(["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"], capture_output=True,
                         text=True, check=True).stdout
    return [int(x) for x in out.split()]


def request():
    n = RNG.choice([1, 5, 40, 200, CTX - 150])
    r = {"prompt_token_ids": [RNG.randrange(3, VOCAB) for _ in range(n)], "max_tokens": RNG.choice([0, 1, 8, 60, 140]),
         "ignore_eos": RNG.random() < 0.7, "seed": RNG.randrange(1 << 30)}
    if RNG.random() < 0.3:  # a beginning that others share
        r["prompt_token_ids"][:64] = list(range(100, 100 + min(64, n)))
    kind = RNG.random()
    if kind < 0.5:
        r["temperature"] = RNG.choice([0.3, 0.8, 1.5])
        if RNG.random() < 0.6:
            r["top_p"], r["top_k"] = 0.9, RNG.choice([0, 20, 400])
    elif kind < 0.65:
        r["logprobs"] = 3
    elif kind < 0.75:
        r["repetition_penalty"], r["frequency_penalty"] = 1.2, 0.4
    elif kind < 0.8:
        r["prompt_logprobs"] = 1
    elif kind < 0.85:
        r["prompt_token_ids"] = [VOCAB] * (CTX + 10)  # refused
    elif kind < 0.9:
        r["top_p"] = 7  # refused
    elif kind < 0.95:
        r["n"] = 3
        r["temperature"] = 1.0
    return r


class Job:
    """A worker, or several under the launcher, and the answers it gives to what it is fed."""

    def __init__(self):
        cmd = [A.worker, A.model, "--jsonl", "--backend", A.backend, "--ctx", str(CTX), "--max-seqs", "32"]
        if A.np > 1:
            cmd = [launcher(), "-np", str(A.np)] + cmd
        self.log = tempfile.TemporaryFile("w+")
        self.p = subprocess.Popen(cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True,
                                  env=dict(os.environ, MARLIN_LOG_LEVEL="debug"), start_new_session=True)
        self.asked = self.answered = self.errors = self.tokens = 0
        self.room = threading.Semaphore(OUTSTANDING)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.p.stdout:
            a = json.loads(line)
            self.errors += "error" in a
            self.tokens += a.get("usage", {}).get("completion_tokens", 0)
            self.answered += 1
            self.room.release()

    def ask(self, dying=False):
        """False: it does not take any more."""
        if not self.room.acquire(timeout=0.5 if dying else 60):
            if dying:
                return False
            sys.exit("FAILED: no answer for 60 s")
        try:
            self.p.stdin.write(json.dumps(request()) + "\n")
            self.p.stdin.flush()
        except BrokenPipeError:
            return False
        self.asked += 1
        return True

    def feed(self, seconds, dying=False):
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.ask(dying):
            pass

    def drain(self):
        end = time.monotonic() + 60
        while self.answered < self.asked:
            if time.monotonic() > end:
                sys.exit(f"FAILED: {self.asked - self.answered} of {self.asked} requests were never answered")
            time.sleep(0.02)

    def ranks(self):
        """Process ids of the worker's ranks, in order."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.getsid(int(pid)) != self.p.pid or "marlin-worker" not in open(f"/proc/{pid}/comm").read():
                    continue
                env = open(f"/proc/{pid}/environ", "rb").read().split(b"\0")
            except OSError:
                continue
            rank = [int(e.split(b"=")[1]) for e in env if e.startswith((b"OMPI_COMM_WORLD_RANK=", b"PMI_RANK="))]
            found[rank[0] if rank and A.np > 1 else 0] = int(pid)
        return [found[r] for r in sorted(found)]

    def usage(self):
        """(open files, threads, resident MB) of all ranks."""
        def one(pid):
            status = dict(l.split(":", 1) for l in open(f"/proc/{pid}/status"))
            return (len(os.listdir(f"/proc/{pid}/fd")), int(status["Threads"]), int(status["VmRSS"].split()[0]) / 1000)
        return [one(pid) for pid in self.ranks()]

    def said(self):
        self.log.seek(0)
        return self.log.read()

    def end(self, seconds):
        try:
            return self.p.wait(seconds)
        except subprocess.TimeoutExpired:
            os.killpg(self.p.pid, signal.SIGKILL)
            sys.exit(f"FAILED: the job did not end within {seconds} s\n{self.said()[-3000:]}")


def fail(job, text):
    sys.exit(f"FAILED (--seed {A.seed}): {text}\n{job.said()[-3000:]}")


def freed(before):
    """Until the GPUs are as they were; the driver takes a moment after the process is gone."""
    end = time.monotonic() + 10
    while any(b > a + 16 for a, b in zip(before, gpu_memory())):
        if time.monotonic() > end:
            return False
        time.sleep(0.2)
    return True


def soak():
    before = gpu_memory()
    job = Job()
    job.feed(max(2, A.seconds * 0.2))
    job.drain()
    warm, warm_gpu = job.usage(), gpu_memory()
    job.feed(A.seconds * 0.8)
    job.drain()
    after, after_gpu = job.usage(), gpu_memory()
    job.p.stdin.close()
    if job.end(30) != 0:
        fail(job, f"code {job.p.returncode} after the load")
    said = job.said()
    for rank, (a, b) in enumerate(zip(warm, after)):
        if b[0] > a[0] or b[1] > a[1]:
            fail(job, f"rank {rank}: {a[0]} open files and {a[1]} threads when warm, {b[0]} and {b[1]} after the load")
        if A.backend == "cuda" and b[2] > a[2] + 32 + 0.02 * a[2]:  # (a KV cache on the host grows into its pages)
            fail(job, f"rank {rank}: {a[2]:.0f} MB resident when warm, {b[2]:.0f} after the load")
    if any(b > a + 2 for a, b in zip(warm_gpu, after_gpu)):
        fail(job, f"GPU memory in use: {warm_gpu} MiB when warm, {after_gpu} after the load")
    blocks = [l for l in said.splitlines() if "KV blocks are free" in l]
    words = blocks[-1].split() if blocks else []
    if not words or words[words.index("of") - 1] != words[words.index("of") + 1]:
        fail(job, f"KV blocks: {blocks}")
    if not freed(before):
        fail(job, f"GPU memory: {before} MiB before, {gpu_memory()} after the end")
    print(f"{A.seconds:.0f} s, np {A.np}: {job.asked} requests ({job.errors} refused), {job.tokens} tokens; "
          f"open files {[u[0] for u in after]}, threads {[u[1] for u in after]}, resident {[round(u[2]) for u in warm]} -> "
          f"{[round(u[2]) for u in after]} MB, GPU {before} -> {warm_gpu} -> {after_gpu} -> {gpu_memory()} MiB; "
          f"{' '.join(words[-8:])}", flush=True)


def kill(rank):
    before = gpu_memory()
    job = Job()
    job.feed(3)
    pids = job.ranks()
    if len(pids) != A.np:
        fail(job, f"{len(pids)} processes of {A.np} ranks found")
    began = time.monotonic()
    os.kill(pids[rank], signal.SIGKILL)
    job.feed(2, dying=True)  # the steps go on until it is noticed
    code = job.end(10)
    took = time.monotonic() - began
    said = job.said()
    reports = [l for l in said.splitlines() if l.startswith(("error:", "[rank")) and "debug" not in l]
    left = [p for p in pids if os.path.exists(f"/proc/{p}") and "Z" not in open(f"/proc/{p}/stat").read().split()[2]]
    if code == 0 or took > 10 or len(reports) > 1 or left:
        fail(job, f"rank {rank} killed: code {code} after {took:.1f} s, processes left {left}, reports {reports}")
    if not freed(before):
        fail(job, f"rank {rank} killed: GPU memory {before} MiB before, {gpu_memory()} after")
    print(f"rank {rank} of {A.np} killed: code {code} after {took:.1f} s, {len(reports)} report(s) {reports}, GPU "
          f"{gpu_memory()} MiB", flush=True)


if A.backend == "cuda" and len(gpu_memory()) < A.np:
    print(f"SKIPPED: soak of {A.np} ranks needs {A.np} GPUs, found {len(gpu_memory())}")
    sys.exit(77)
print("seed", A.seed, flush=True)
soak()
for r in range(A.np):
    kill(r)
