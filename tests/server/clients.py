#!/usr/bin/env python3
"""The clients that people use: openai, LangChain, curl, and the protocol of vLLM's `bench serve`. Goes over to the
environment that tests/venv has made.

usage: clients.py BUILD_DIR MODEL.h5 RANKS
"""
import json
import os
import subprocess
import sys
import time

from common import PROMPT, ROOT, Server, check, events, finish

VENV = os.path.join(ROOT, ".venv")
if sys.prefix != VENV:
    if os.path.exists(os.path.join(VENV, "installed")):
        os.execv(os.path.join(VENV, "bin", "python"), [os.path.join(VENV, "bin", "python")] + sys.argv)
    print("SKIPPED: tests/venv has installed no client packages")
    sys.exit(1 if os.environ.get("MW_TEST_NO_SKIP") == "1" else 77)

import httpx
import openai
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

BUILD, MODEL, NP = sys.argv[1], sys.argv[2], int(sys.argv[3])
GOLDEN = json.load(open(os.path.join(ROOT, "tests", "data", "golden", "demo.json")))
IDS = GOLDEN["prompts"][0]["ids"]
NAME = "shakespeare-11m-gptq"
USER = [{"role": "user", "content": "How now, sir?"}]


def completions(c):
    gold = GOLDEN["gold"]["prompts"][0]["greedy_ids"][:20]
    r = c.completions.create(model=NAME, prompt=GOLDEN["prompts"][0]["text"], max_tokens=20, temperature=0)
    text = r.choices[0].text
    detok = c.post("/../detokenize", body={"tokens": gold}, cast_to=object)["prompt"]
    check("completions: the golden tokens", text == detok, (text, detok))
    check("usage", (r.usage.prompt_tokens, r.usage.completion_tokens, r.usage.total_tokens) == (10, 20, 30), r.usage)
    check("finish_reason, object, model", (r.choices[0].finish_reason, r.object, r.model) == ("length", "text_completion", NAME), r)
    chunks = list(c.completions.create(model=NAME, prompt=GOLDEN["prompts"][0]["text"], max_tokens=20, temperature=0, stream=True,
                                       stream_options={"include_usage": True}))
    check("streamed: the same text", "".join(x.choices[0].text for x in chunks if x.choices) == text, chunks)
    check("streamed: usage comes last, alone", chunks[-1].choices == [] and chunks[-1].usage.total_tokens == 30 and
          all(x.usage is None for x in chunks[:-1]), chunks[-1])
    check("streamed: one id", len({x.id for x in chunks}) == 1 and chunks[-2].choices[0].finish_reason == "length", chunks[-2])
    for name, prompt in (("token ids", IDS), ("a list of lists of ids", [IDS])):
        r = c.completions.create(model=NAME, prompt=prompt, max_tokens=20, temperature=0)
        check("prompt as %s" % name, r.choices[0].text == text, r)
    r = c.completions.create(model=NAME, prompt=["KING:", GOLDEN["prompts"][0]["text"], "JULIET:"], max_tokens=20, temperature=0, n=2)
    check("three prompts, two answers each", [x.index for x in r.choices] == list(range(6)) and r.choices[2].text == text and
          r.choices[3].text == text and r.usage.completion_tokens == 120, r)
    r = c.completions.create(model=NAME, prompt=GOLDEN["prompts"][0]["text"], max_tokens=20, temperature=0, stop=["gent", "HAM"])
    check("stop", r.choices[0].finish_reason == "stop" and r.choices[0].text == text[:text.index("HAM")], r)
    a, b, d = (c.completions.create(model=NAME, prompt="KING", max_tokens=16, temperature=0.9, seed=x).choices[0].text for x in (5, 5, 6))
    check("seed", a == b != d, (a, b, d))
    two = c.completions.create(model=NAME, prompt="KING", max_tokens=16, temperature=0.9, seed=5, n=2)
    check("n: answer i has seed + i", [x.text for x in two.choices] == [a, d], two)
    r = c.completions.create(model=NAME, prompt="KING", max_tokens=8, temperature=0, logit_bias={str(gold[0]): -100}, presence_penalty=0.5,
                             frequency_penalty=0.5, extra_body={"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, "ignore_eos": True,
                                                                "stop_token_ids": [3], "user": "me"})
    check("what vLLM has beyond OpenAI is taken", r.choices[0].finish_reason in ("length", "stop"), r)


def logprobs(c):
    r = c.completions.create(model=NAME, prompt=PROMPT, max_tokens=6, temperature=0, logprobs=3).choices[0]
    lp = r.logprobs
    check("completions: logprobs", len(lp.tokens) == 6 and "".join(lp.tokens) == r.text and
          all(len(t) == 3 and abs(max(t.values()) - x) < 1e-6 for t, x in zip(lp.top_logprobs, lp.token_logprobs)) and
          lp.text_offset == [len("".join(lp.tokens[:i])) for i in range(6)], lp)
    e = c.completions.create(model=NAME, prompt=PROMPT, max_tokens=0, temperature=0, logprobs=1, echo=True).choices[0]
    check("echo: the prompt and what the model thinks of it", e.text == PROMPT and len(e.logprobs.tokens) == 10 and
          e.logprobs.token_logprobs[0] is None and all(x < 0 for x in e.logprobs.token_logprobs[1:]), e)
    both = c.completions.create(model=NAME, prompt=PROMPT, max_tokens=6, temperature=0, logprobs=1, echo=True).choices[0]
    check("echo: then the answer", both.text == PROMPT + r.text and both.logprobs.token_logprobs[10:] == lp.token_logprobs, both)
    chunks = list(c.completions.create(model=NAME, prompt=PROMPT, max_tokens=6, temperature=0, logprobs=1, echo=True, stream=True))
    check("echo, streamed", "".join(x.choices[0].text for x in chunks) == both.text and
          sum((x.choices[0].logprobs.tokens for x in chunks if x.choices[0].logprobs), []) == both.logprobs.tokens, chunks)
    m = c.chat.completions.create(model=NAME, messages=USER, max_tokens=5, temperature=0, logprobs=True, top_logprobs=2).choices[0]
    t = m.logprobs.content
    check("chat: logprobs", "".join(x.token for x in t) == m.message.content and
          all(len(x.top_logprobs) == 2 and x.top_logprobs[0].logprob == x.logprob and bytes(x.bytes).decode() == x.token for x in t), m)
    s = list(c.chat.completions.create(model=NAME, messages=USER, max_tokens=5, temperature=0, logprobs=True, top_logprobs=2, stream=True))
    got = sum((x.choices[0].logprobs.content for x in s if x.choices[0].logprobs), [])
    check("chat, streamed: the same", [x.logprob for x in got] == [x.logprob for x in t], s)


def chats(c):
    r = c.chat.completions.create(model=NAME, messages=USER, max_completion_tokens=12, temperature=0)
    m = r.choices[0].message
    check("chat", m.role == "assistant" and len(m.content) > 5 and r.usage.completion_tokens <= 12, r)
    s = list(c.chat.completions.create(model=NAME, messages=USER, max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}))
    check("chat, streamed: the same", "".join(x.choices[0].delta.content or "" for x in s if x.choices) == m.content, s)
    check("chat, streamed: role first, usage last", s[0].choices[0].delta.role == "assistant" and s[-1].usage.prompt_tokens == r.usage.prompt_tokens, s)
    parts = [{"role": "user", "content": [{"type": "text", "text": "How now, sir?"}]}]
    check("content in parts", c.chat.completions.create(model=NAME, messages=parts, max_tokens=12, temperature=0).choices[0].message.content == m.content)
    two = c.chat.completions.create(model=NAME, messages=USER, max_tokens=8, temperature=1, seed=3, n=3)
    check("chat: n", len({x.message.content for x in two.choices}) == 3 and [x.index for x in two.choices] == [0, 1, 2], two)
    f = c.chat.completions.create(model=NAME, messages=USER, temperature=0)
    check("chat: without max_tokens it ends by itself or with the context", f.choices[0].finish_reason in ("stop", "length"), f.choices[0].finish_reason)
    again = c.chat.completions.create(model=NAME, messages=[{"role": "system", "content": "word " * 100}] + USER, max_tokens=2)
    again = c.chat.completions.create(model=NAME, messages=[{"role": "system", "content": "word " * 100}] + USER, max_tokens=2)
    check("the prefix cache shows in usage", again.usage.prompt_tokens_details.cached_tokens >= 64, again.usage)


def formats(c):
    schema = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}, "ok": {"type": "boolean"}},
              "required": ["name", "age", "ok"], "additionalProperties": False}
    for stream in (False, True):
        r = c.chat.completions.create(model=NAME, messages=USER, temperature=0.8, seed=11, max_tokens=300, stream=stream, response_format={
            "type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}})
        text = "".join(x.choices[0].delta.content or "" for x in r) if stream else r.choices[0].message.content
        v = json.loads(text)
        check("json_schema%s" % (", streamed" if stream else ""), list(v) == ["name", "age", "ok"] and type(v["age"]) is int and
              type(v["ok"]) is bool and len(v["name"]) <= 12, text)
    r = c.chat.completions.create(model=NAME, messages=USER, temperature=0.8, seed=1, max_tokens=700, response_format={"type": "json_object"})
    text = r.choices[0].message.content
    check("json_object", r.choices[0].finish_reason == "length" or isinstance(json.loads(text), dict), text)
    try:
        c.chat.completions.create(model=NAME, messages=USER, max_tokens=5, response_format={
            "type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nonsense"}}})
        check("a schema that is none is refused", False)
    except openai.BadRequestError as e:
        check("a schema that is none is refused", e.status_code == 400, e)


def errors(c):
    def expect(name, kind, status, fn):
        try:
            fn()
            check(name, False, "no error")
        except kind as e:
            check(name, e.status_code == status, e)
    expect("openai: NotFoundError", openai.NotFoundError, 404, lambda: c.completions.create(model="gpt-9", prompt="x"))
    expect("openai: BadRequestError", openai.BadRequestError, 400, lambda: c.completions.create(model=NAME, prompt="x", temperature=-1))
    expect("openai: AuthenticationError", openai.AuthenticationError, 401,
           lambda: c.with_options(api_key="wrong").completions.create(model=NAME, prompt="x"))
    expect("openai: a prompt that is too long", openai.BadRequestError, 400, lambda: c.completions.create(model=NAME, prompt="x " * 4000))


def models(c):
    m = c.models.list().data
    check("models", [x.id for x in m] == [NAME, "alias"] and m[0].max_model_len == 1024, m)
    check("one model", c.models.retrieve("alias").id == "alias")
    ids = c.post("/../tokenize", body={"prompt": GOLDEN["prompts"][0]["text"]}, cast_to=object)
    check("/tokenize", ids["tokens"] == IDS and ids["count"] == len(IDS) and ids["max_model_len"] == 1024, ids)
    chat = c.post("/../tokenize", body={"messages": GOLDEN["chat"]["messages"]}, cast_to=object)
    check("/tokenize of messages", chat["tokens"] == GOLDEN["chat"]["ids"], chat)


def langchain(s):
    llm = ChatOpenAI(base_url=s.url + "/v1", api_key="secret", model=NAME, temperature=0, max_tokens=12)
    a = llm.invoke("How now, sir?")
    check("LangChain: invoke", a.content and a.usage_metadata["output_tokens"] <= 12, a)
    check("LangChain: stream", "".join(x.content for x in llm.stream("How now, sir?")) == a.content)
    many = llm.batch(["How now, sir?"] * 5)
    check("LangChain: batch", [x.content for x in many] == [a.content] * 5, many)

    class Person(BaseModel):
        name: str = Field(max_length=10)
        age: int = Field(ge=0, le=120)

    p = ChatOpenAI(base_url=s.url + "/v1", api_key="secret", model=NAME, temperature=0.7, seed=4, max_tokens=400).with_structured_output(
        Person, method="json_schema").invoke("Who?")
    check("LangChain: structured output", isinstance(p, Person), p)


def curl(s):
    def run(*args):
        return subprocess.run(["curl", "-sS", "-N", "-m", "20"] + list(args), stdout=subprocess.PIPE, check=False).stdout.decode()
    body = json.dumps({"model": NAME, "messages": USER, "max_tokens": 5, "temperature": 0, "stream": True})
    out = events(run("-H", "Content-Type: application/json", "-H", "Authorization: Bearer secret", "-d", body, s.url + "/v1/chat/completions"))
    check("curl: a stream", out[-1] == "[DONE]" and len(out) >= 6 and out[0]["object"] == "chat.completion.chunk", out)
    out = run("-o", "/dev/null", "-w", "%{http_code}", "-H", "Content-Type: application/json", "-d", body, s.url + "/v1/chat/completions")
    check("curl: 401 without the key", out == "401", out)
    big = json.dumps({"model": NAME, "prompt": "x " * 1500000})
    out = subprocess.run(["curl", "-sS", "-m", "20", "-H", "Content-Type: application/json", "-H", "Authorization: Bearer secret", "-d", "@-",
                          s.url + "/v1/completions"], input=big.encode(), stdout=subprocess.PIPE, check=False).stdout
    check("curl: 3 MB with Expect: 100-continue", json.loads(out)["error"]["code"] == "context_length_exceeded", out[:300])
    check("curl: the page, health, metrics need no key", "<html" in run(s.url + "/") and "ok" in run(s.url + "/health") and
          "vllm:num_requests_running{" in run(s.url + "/metrics"))


def bench_serve(s):
    """The requests that `vllm bench serve --backend openai` sends, and what it reads of the answers."""
    body = {"model": NAME, "prompt": PROMPT, "temperature": 0.0, "repetition_penalty": 1.0, "max_tokens": 16, "logprobs": None,
            "stream": True, "stream_options": {"include_usage": True}, "ignore_eos": True}
    text, usage, first, itl, last, done = "", None, None, [], time.time(), False
    with httpx.stream("POST", s.url + "/v1/completions", json=body, headers={"Authorization": "Bearer secret"}, timeout=30) as r:
        for line in r.iter_lines():
            if not line.startswith("data: "):
                continue
            if line[6:] == "[DONE]":
                done = True
                continue
            data = json.loads(line[6:])
            if data["choices"]:
                now = time.time()
                itl.append(now - last)
                first, last = first or now, now
                text += data["choices"][0]["text"] or ""
            elif data.get("usage"):
                usage = data["usage"]
    check("vllm bench serve's protocol", done and first and text and usage["completion_tokens"] == 16 and len(itl) >= 16, (text, usage, len(itl)))


def metrics(s):
    text = s.get("/metrics")[2]
    v = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            v[line.rsplit(" ", 1)[0]] = float(line.rsplit(" ", 1)[1])
    label = '{engine="0",model_name="%s"}' % NAME
    check("metrics: tokens are counted", v["vllm:generation_tokens_total" + label] > 500 and v["vllm:prompt_tokens_total" + label] > 500)
    check("metrics: histograms add up", v["vllm:time_to_first_token_seconds_count" + label] > 20 and
          v['vllm:time_to_first_token_seconds_bucket{engine="0",model_name="%s",le="+Inf"}' % NAME] == v["vllm:time_to_first_token_seconds_count" + label])
    check("metrics: every rank", all('marlin:rank_step_seconds_total{engine="0",model_name="%s",rank="%d"}' % (NAME, r) in v for r in range(NP)))
    check("metrics: every family has its type", all("# TYPE " + name in text for name in (
        "vllm:num_requests_running gauge", "vllm:kv_cache_usage_perc gauge", "vllm:e2e_request_latency_seconds histogram",
        "vllm:inter_token_latency_seconds histogram", "vllm:request_success_total counter", "vllm:prefix_cache_hits_total counter")))
    st = s.request("GET", "/stats", headers={"Authorization": "Bearer secret"})[2]
    check("/stats", st["n_ranks"] == NP == len(st["ranks"]) and st["requests_done"] > 20 and st["ttft_s"]["p50"] > 0, st)


def main():
    with Server(BUILD, MODEL, NP, ["--api-key", "secret", "--served-model-name", NAME, "--served-model-name", "alias"]) as s:
        c = openai.OpenAI(base_url=s.url + "/v1", api_key="secret", max_retries=0, timeout=60)
        models(c)
        completions(c)
        logprobs(c)
        chats(c)
        formats(c)
        errors(c)
        langchain(s)
        curl(s)
        bench_serve(s)
        metrics(s)
    finish()


main()
