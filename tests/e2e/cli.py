#!/usr/bin/env python3
"""marlin-worker as people use it: flags, pipes, JSON lines, a terminal, Ctrl-C.

usage: cli.py BUILD_DIR MODEL.h5
"""
import json
import math
import os
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time

os.environ["MARLIN_BACKEND"] = "cpu" # also where there are GPUs, which this many ranks would not find
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD, MODEL = sys.argv[1], sys.argv[2]
WORKER = os.path.join(BUILD, "bin", "marlin-worker")
MPIRUN = os.path.join(ROOT, "launch", "mpirun")
GOLDEN = json.load(open(os.path.join(ROOT, "tests", "data", "golden", "demo.json")))
PROMPT = GOLDEN["prompts"][0]["text"]
failures = 0


def check(name, ok, detail=""):
    global failures
    print("%-70s %s" % (name, "ok" if ok else "FAILED  " + str(detail)[:600]), flush=True)
    failures += not ok


def run(args, np=1, stdin=b"", want=0, env=None):
    cmd = ([MPIRUN, "-np", str(np)] if np > 1 else []) + [WORKER] + args
    p = subprocess.run(cmd, input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, env=env)
    if p.returncode != want:
        check("exit code of " + " ".join(args), False, "%d, expected %d: %s" % (p.returncode, want, p.stderr.decode()))
    return p.stdout.decode(), p.stderr.decode()


def jsonl(requests, args=(), np=1):
    data = "\n".join(r if isinstance(r, str) else json.dumps(r) for r in requests) + "\n"
    out, _ = run([MODEL, "--jsonl", "--quiet"] + list(args), np, data.encode())
    return [json.loads(l) for l in out.splitlines()]


def help_and_version():
    out, _ = run(["--version"])
    check("--version names its parts", all(w in out for w in ("marlin-worker", "backends", "MPI", "HDF5")), out)
    out, _ = run(["--help"])
    check("--help has every flag of a request", all("--" + w in out for w in (
        "max-tokens", "temperature", "top-k", "top-p", "min-p", "seed", "stop", "logprobs", "prompt-logprobs", "ignore-eos", "n",
        "repetition-penalty", "presence-penalty", "frequency-penalty", "logit-bias", "json", "json-schema")), out)
    check("--help has every flag of the server", all("--" + w in out for w in (
        "listen", "api-key", "api-key-file", "served-model-name", "cors-origin", "drain-timeout", "idle-timeout", "request-timeout",
        "max-connections", "max-body", "max-header", "max-queue", "no-prefix-cache", "batch-in", "batch-out")), out)
    check("--help has the environment and the exit codes", "MARLIN_TIMEOUT" in out and "Exit codes" in out)
    out, err = run(["--help"], np=3)
    check("--help on three ranks is printed once", out.count("Usage:") == 1, out[:200])
    _, err = run([MODEL, "--no-such-flag"], np=2, want=64)
    check("a wrong flag on two ranks is reported once", err.count("unrecognized option") == 1, err)
    run([], want=64)
    run([MODEL, "--prompt", "x", "--jsonl"], want=64)
    run([MODEL, "--temperature", "hot"], want=64)
    out, _ = run([MODEL, "--dry-run"], np=4)
    check("--dry-run prints plan and memory, once", out.count("vocab rows") == 1 and out.count("\n   3  ") == 2, out)


def prompts():
    gold = GOLDEN["gold"]["prompts"][0]["greedy_ids"]
    out, err = run([MODEL, "--prompt", PROMPT, "--max-tokens", "64"])
    check("--prompt streams the golden text", out.startswith(" a man.\n\nHAMLET:\nI am a man, sir.") and out.endswith("\n"), out)
    check("the summary says tokens, rate and memory", re.search(r"10 prompt \+ 64 new tokens.*tokens/s, TTFT.*weights", err), err)
    check("the summary is one line on stderr", len(err.strip().splitlines()) == 1, err)
    again, _ = run([MODEL, "--prompt", PROMPT, "--max-tokens", "64", "--quiet"], np=3)
    check("the same on three ranks", again == out, again)
    with tempfile.NamedTemporaryFile("w") as f:
        f.write(PROMPT)
        f.flush()
        again, _ = run([MODEL, "--prompt-file", f.name, "--max-tokens", "64"])
        check("--prompt-file", again == out)
    again, _ = run([MODEL, "--prompt-file", "-", "--max-tokens", "64"], stdin=PROMPT.encode())
    check("--prompt-file -", again == out)
    short, _ = run([MODEL, "--prompt", PROMPT, "--max-tokens", "64", "--stop", "gentleman"])
    check("--stop", short.rstrip("\n") == out[:out.index("gentleman")].rstrip("\n"), short)
    one, _ = run([MODEL, "--prompt", PROMPT, "--temperature", "0.9", "--seed", "5", "--max-tokens", "20"])
    two, _ = run([MODEL, "--prompt", PROMPT, "--temperature", "0.9", "--seed", "5", "--max-tokens", "20"], np=4)
    check("a seed gives the same text on 1 and 4 ranks", one == two and one != out, (one, two))
    cut, _ = run([MODEL, "--prompt", PROMPT, "--seed", "5", "--temperature", "0.9", "--max-tokens", "20", "-n", "2"], np=2)
    check("-n 2 begins with the answer of the seed", cut.startswith(one) and len(cut) > len(one) + 5, cut)
    for isa in ("scalar", "avx2"):
        env = dict(os.environ, MARLIN_CPU_ISA=isa)
        text, err = run([MODEL, "--prompt", PROMPT, "--max-tokens", "12"], env=env, want=0)
        check("MARLIN_CPU_ISA=%s gives the same text" % isa, out.startswith(text.rstrip("\n")), text)


def pipes():
    lines = ["HAMLET:", "JULIET:", "", "KING HENRY V:", "First Citizen:"]
    out, err = run([MODEL, "--max-tokens", "8", "--stop", "\n"], stdin="\n".join(lines).encode())
    check("a line a prompt, answers in order", len(out.splitlines()) == 4, out)
    each = [run([MODEL, "--prompt", l, "--max-tokens", "8", "--stop", "\n", "-q"])[0].rstrip("\n") for l in lines if l]
    check("each is the answer of that prompt alone", out.split("\n")[:4] == each, (out, each))
    out2, _ = run([MODEL, "--max-tokens", "8", "--stop", "\n"], np=2, stdin=("\r\n".join(lines) + "\r\n").encode())
    check("the same on two ranks, with CRLF", out2 == out, out2)
    many, _ = run([MODEL, "--max-tokens", "3", "--stop", "\n"], stdin=b"The\n" * 700)
    check("700 lines through a window of 256", len(many.splitlines()) == 700 and len(set(many.splitlines())) == 1, many[:100])


def json_lines():
    ids = GOLDEN["prompts"][0]["ids"]
    r = jsonl([
        {"id": "a", "prompt": PROMPT, "max_tokens": 8},
        {"id": 7, "prompt_token_ids": ids, "max_tokens": 8, "logprobs": 2},
        "this is not JSON",
        {"id": "c", "messages": GOLDEN["chat"]["messages"], "max_tokens": 4, "prompt_logprobs": 0},
        {"id": "d", "prompt": "x", "temperature": -3},
        {"id": "e", "prompt": "x", "prompt_token_ids": [1]},
        {"id": "f", "prompt": "x", "max_token": 3},
        {"prompt": "no id", "max_tokens": 0},
        {"id": "h", "prompt_token_ids": list(range(1500))},
        {"id": "i", "prompt": PROMPT, "max_tokens": 30, "temperature": 1, "seed": 3, "n": 3},
        {"id": "j", "prompt": PROMPT, "max_tokens": 30, "stop": ["gentle"], "logit_bias": {"13": -100}},
        {"id": "k", "prompt_token_ids": []},
    ], np=2)
    check("one answer a line, in order", [x["id"] for x in r] == ["a", 7, None, "c", "d", "e", "f", None, "h", "i", "j", "k"], r)
    gold = GOLDEN["gold"]["prompts"][0]["greedy_ids"][:8]
    check("prompt and its ids give the golden tokens", r[0]["token_ids"] == gold and r[1]["token_ids"] == gold)
    check("fields of an answer", r[0]["finish_reason"] == "length" and r[0]["text"].startswith(" a man") and
          r[0]["usage"] == {"prompt_tokens": 10, "completion_tokens": 8, "total_tokens": 18}, r[0])
    lp = r[1]["logprobs"]
    check("logprobs by position", len(lp) == 8 and all(len(p["top"]) == 2 and p["token_id"] == t and
          p["top"][0]["logprob"] == p["logprob"] for p, t in zip(lp, gold)), lp)
    check("a line that is not JSON is answered alone", r[2]["error"]["code"] == "usage_error" and "JSON" in r[2]["error"]["message"])
    chat_ids = len(GOLDEN["chat"]["ids"])
    check("messages go through the chat template", r[3]["usage"]["prompt_tokens"] == chat_ids, r[3])
    check("prompt_logprobs by position", len(r[3]["prompt_logprobs"]) == chat_ids - 1 and r[3]["prompt_logprobs"][0]["top"] == [])
    check("a bad value is named", "temperature" in r[4]["error"]["message"], r[4])
    check("two prompts are refused", "exactly one" in r[5]["error"]["message"], r[5])
    check("an unknown field is refused", "max_token" in r[6]["error"]["message"], r[6])
    check("max_tokens 0 gives no text", r[7]["text"] == "" and r[7]["token_ids"] == [], r[7])
    check("context overflow is that line's error", r[8]["error"]["code"] == "limit_exceeded" and "1500" in r[8]["error"]["message"])
    check("n answers", [c["index"] for c in r[9]["choices"]] == [0, 1, 2] and r[9]["usage"]["completion_tokens"] == 90, r[9])
    check("stop and logit_bias", r[10]["finish_reason"] in ("stop", "length") and "gentle" not in r[10]["text"] and
          13 not in r[10]["token_ids"], r[10])
    check("an empty prompt is refused", "empty" in r[11]["error"]["message"], r[11])
    alone = jsonl([{"id": i, "prompt": PROMPT, "max_tokens": 12, "temperature": 0.8, "seed": i} for i in range(20)])
    other = jsonl([{"id": i, "prompt": PROMPT, "max_tokens": 12} for i in range(20)],
                  ["--temperature", "0.8", "--seed", "0", "--max-seqs", "3"], np=3)
    check("defaults come from the flags", other[0]["token_ids"] == alone[0]["token_ids"] and
          other[5]["token_ids"] == alone[0]["token_ids"])


def perplexity():
    rows = [r[:200] for r in GOLDEN["ppl_tokens"][:2]]
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(rows, f)
        f.flush()
        a = json.loads(run([MODEL, "--perplexity", f.name])[0])
        b = json.loads(run([MODEL, "--perplexity", f.name, "--max-step-tokens", "37"], np=2)[0])
    check("--perplexity of token ids", a["tokens"] == 398 and a["rows"] == 2 and
          abs(a["perplexity"] - math.exp(a["nll"])) < 1e-6, a)
    check("the same in chunks on two ranks", abs(a["nll"] - b["nll"]) < 1e-4, (a, b))
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as f:
        f.write("HAMLET:\nTo be, or not to be, that is the question.\n" * 200)
        f.flush()
        t = json.loads(run([MODEL, "--perplexity", f.name, "--ctx", "256"])[0])
    check("--perplexity of a text, in windows of the context", t["rows"] > 5 and 1 < t["perplexity"] < 40, t)


# ---- a terminal ----

class Terminal:
    """A program on a terminal of its own, driven like a person would."""

    def __init__(self, cmd):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvp(cmd[0], cmd)
        self.seen = ""

    def wait_for(self, text, seconds=20):
        until = time.time() + seconds
        while text not in self.seen:
            ready, _, _ = select.select([self.fd], [], [], max(0, until - time.time()))
            if not ready:
                return False
            try:
                data = os.read(self.fd, 65536)
            except OSError:
                data = b""
            if not data:
                return text in self.seen
            self.seen += data.decode(errors="replace")
        return True

    def say(self, text):
        self.seen = ""
        os.write(self.fd, text.encode())

    def end(self, seconds=10):
        until = time.time() + seconds
        while time.time() < until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
            self.wait_for("\0nothing", 0.1)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return None


def terminal(np):
    where = "on %d rank%s: " % (np, "" if np == 1 else "s")
    t = Terminal(([MPIRUN, "-np", str(np)] if np > 1 else []) + [WORKER, MODEL, "--max-tokens", "20"])
    check(where + "a terminal gets a prompt", t.wait_for("> "), t.seen)
    t.say("How now, sir?\n")
    check(where + "an answer and the next prompt", t.wait_for("tokens/s") and t.wait_for("> "), t.seen)
    t.say("/help\n")
    check(where + "/help", t.wait_for("/reset"), t.seen)
    t.wait_for("> ")
    t.say("x " * 3000 + "\n")
    check(where + "too long a prompt is refused, the session goes on", t.wait_for("tokens, the context holds") and t.wait_for("> "), t.seen)
    t.say("/exit\n")
    check(where + "/exit ends with code 0", t.end() == 0, t.seen)

    t = Terminal(([MPIRUN, "-np", str(np)] if np > 1 else []) +
                 [WORKER, MODEL, "--raw", "--max-tokens", "-1", "--ignore-eos", "--temperature", "1", "--threads", "1"])
    t.wait_for("> ")
    t.say("HAMLET:\n")
    t.wait_for("\n")
    time.sleep(0.3)
    t.say("\x03")
    check(where + "Ctrl-C stops an answer", t.wait_for("new tokens") and t.wait_for("> "), t.seen[-300:])
    time.sleep(3)  # launch/mpirun ends the job by force at three presses in quick succession
    t.say("\x03")
    check(where + "Ctrl-C at the prompt says how to leave", t.wait_for("again"), t.seen)
    t.say("\x03")
    code = t.end()
    check(where + "twice ends the job", code in (0, 130), "%s: %s" % (code, t.seen[-500:]))


def valid_person(text):
    try:
        v = json.loads(text)
    except ValueError:
        return False
    return (list(v) == ["name", "age", "tags"] and 1 <= len(v["name"]) <= 20 and isinstance(v["age"], int) and
            0 <= v["age"] <= 120 and len(v["tags"]) <= 3 and set(v["tags"]) <= {"king", "fool"})


def json_answers():
    schema = {"type": "object", "required": ["name", "age", "tags"], "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["king", "fool"]}, "maxItems": 3}}}
    with tempfile.NamedTemporaryFile("w", suffix=".json") as f:
        json.dump(schema, f)
        f.flush()
        args = [MODEL, "--prompt", PROMPT, "--json-schema", f.name, "--max-tokens", "300", "--quiet"]
        greedy, _ = run(args)
        check("--json-schema: greedy, an answer to the schema", valid_person(greedy), greedy)
        again, _ = run(args, np=2)
        check("the same on two ranks", again == greedy, again)
        run(args + ["--json"], want=64)
        run([MODEL, "--prompt", "x", "--json-schema", "/nonexistent.json"], want=66)
        f.write("x")
        f.flush()
        _, err = run(args, np=2, want=64)
        check("a schema that is none is reported once", err.count("schema: line 1") == 1, err)
    objects = jsonl([{"prompt": PROMPT, "temperature": 1, "seed": 5, "n": 16, "max_tokens": 200}], ["--json"])[0]["choices"]
    whole = [c for c in objects if c["finish_reason"] == "stop"]
    check("--json: objects, as far as they end", len(whole) >= 2 and all(isinstance(json.loads(c["text"]), dict) for c in whole)
          and all(c["text"].startswith("{") for c in objects), objects)
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": schema, "strict": True}}
    asked = [{"id": i, "prompt": PROMPT, "temperature": 1.2, "seed": i, "n": 1 + i % 3, "max_tokens": 300, "logprobs": 2,
              "repetition_penalty": 1.1, "presence_penalty": 0.5, "response_format": form} for i in range(8)]
    plain = [{"id": "plain", "prompt": PROMPT, "max_tokens": 40, "response_format": {"type": "text"}}]
    for np in (1, 2):
        lines = jsonl(asked + plain, np=np)
        texts = [c for l in lines[:-1] for c in l.get("choices", [l])]
        check("JSON lines with a schema, %d ranks" % np, all(c.get("finish_reason") == "stop" and valid_person(c["text"])
                                                            for c in texts) and len(texts) == 15, lines)
        check("a free answer beside them is the golden one", lines[-1]["token_ids"] ==
              GOLDEN["gold"]["prompts"][0]["greedy_ids"][:40], lines[-1])
    bad = jsonl([{"prompt": "x", "response_format": f} for f in (
        {"type": "xml"}, {"type": "json_schema"}, {"type": "json_schema", "json_schema": {"schema": {"not": {}}}},
        {"type": "json_schema", "json_schema": {"schema": False}})] +
        [{"prompt": "x", "max_tokens": 3, "response_format": form}])
    words = ("response_format", "schema is missing", "'not' is not supported", "no value")
    check("formats that are refused, in words", all(w in l["error"]["message"] for w, l in zip(words, bad)), bad)
    check("too few tokens: cut off, and said so", bad[4]["finish_reason"] == "length", bad[4])


def main():
    help_and_version()
    prompts()
    pipes()
    json_lines()
    json_answers()
    perplexity()
    terminal(1)
    terminal(2)
    print("%d failures" % failures)
    sys.exit(failures != 0)


main()
