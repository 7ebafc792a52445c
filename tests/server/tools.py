#!/usr/bin/env python3
"""Tools: models whose chat templates know them, made from the demo model; calls that the request forces; what is refused.

usage: tools.py BUILD_DIR MODEL.h5
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

from common import ROOT, Server, check, events, finish

BUILD, MODEL = sys.argv[1], sys.argv[2]
CHAT = "/v1/chat/completions"
USER = [{"role": "user", "content": "What is the weather in Verona?"}]
TOOLS = [
    {"type": "function", "function": {"name": "weather", "description": "Of a town", "parameters": {
        "type": "object", "properties": {"town": {"type": "string", "maxLength": 8}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
        "required": ["town", "days"], "additionalProperties": False}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}}},
]
AGAIN = USER + [{"role": "assistant", "content": None, "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\"town\": \"Verona\", \"days\": 1}"}}]},
                {"role": "tool", "tool_call_id": "call_1", "content": "rain"}]


def convert(folder, template, name):
    """The demo model with another template."""
    hf, out = os.path.join(folder, "hf"), os.path.join(folder, name + ".h5")
    run = lambda *args: subprocess.run([os.path.join(BUILD, "bin", "marlin-convert"), "--quiet"] + list(args), check=True)
    if not os.path.isdir(hf):
        run("--to-safetensors", MODEL, "-o", hf)
    with open(os.path.join(hf, "chat_template.jinja"), "w") as f:
        f.write(template)
    run(hf, "-o", out)
    return out


def ask(s, **body):
    return s.post(CHAT, dict({"messages": USER, "tools": TOOLS, "temperature": 0.9, "seed": 3, "max_tokens": 200}, **body))


def calls(r):
    return [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in r[2]["choices"][0]["message"].get("tool_calls", [])]


def good(args):
    return set(args) == {"town", "days"} and len(args["town"]) <= 8 and 1 <= args["days"] <= 9


def known(s):
    r = ask(s, tool_choice={"type": "function", "function": {"name": "weather"}})
    got = calls(r)
    check("a named function is called", len(got) == 1 and got[0][0] == "weather" and good(got[0][1]) and
          r[2]["choices"][0]["finish_reason"] == "stop" and r[2]["choices"][0]["message"]["content"] is None, r)
    for seed in range(4):
        r = ask(s, tool_choice="required", seed=seed)
        got = calls(r)
        check("some function is called", len(got) == 1 and (got[0][0] == "weather" and good(got[0][1]) or got[0] == ("now", {})) and
              r[2]["choices"][0]["finish_reason"] == "tool_calls" and r[2]["choices"][0]["message"]["tool_calls"][0]["id"], r)
        out = events(ask(s, tool_choice="required", seed=seed, stream=True)[2])
        deltas = [c for e in out if e != "[DONE]" for x in e["choices"] for c in x["delta"].get("tool_calls", [])]
        check("streamed: the same call", len(deltas) == 1 and (deltas[0]["function"]["name"], json.loads(deltas[0]["function"]["arguments"])) == got[0] and
              out[-2]["choices"][0]["finish_reason"] == "tool_calls" and deltas[0]["index"] == 0, out)
    r = ask(s, max_tokens=20)
    check("auto: this model only talks", r[0] == 200 and r[2]["choices"][0]["message"]["content"] and not calls(r), r)
    with_tools, without = (s.post("/tokenize", {"messages": USER, "tools": t} if t else {"messages": USER})[2]["count"] for t in (TOOLS, None))
    check("the tools stand in the prompt", with_tools > without + 50 and r[2]["usage"]["prompt_tokens"] == with_tools, (with_tools, without, r))
    r = ask(s, tool_choice="none", max_tokens=5)
    check("none: they do not", r[2]["usage"]["prompt_tokens"] == without, r)
    r = s.post(CHAT, {"messages": AGAIN, "tools": TOOLS, "max_tokens": 4})
    check("a conversation with a call and its result", r[0] == 200, r)
    for name, body in (("no such tool", {"tool_choice": {"type": "function", "function": {"name": "f"}}}), ("a choice that is none", {"tool_choice": {"x": 1}}),
                       ("with response_format", {"tool_choice": "required", "response_format": {"type": "json_object"}}),
                       ("tools without names", {"tools": [{"type": "function", "function": {}}]})):
        r = ask(s, **body)
        check("400: " + name, r[0] == 400 and r[2]["error"]["message"], r)


def main():
    templates = os.path.join(ROOT, "tests", "data", "chat", "templates")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("qwen_tools", "llama3_tools"):
            with Server(BUILD, convert(folder, open(os.path.join(templates, name + ".jinja")).read(), name), args=["--ctx", "1024"]) as s:
                known(s)
        unknown = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if tools %}Call: {{ tools | tojson }}{% endif %}"
        with Server(BUILD, convert(folder, unknown, "unknown")) as s:
            r = ask(s)
            check("400: a template whose calls are not understood", r[0] == 400 and r[2]["error"]["param"] == "tools", r)
        shutil.rmtree(os.path.join(folder, "hf"))
    finish()


main()
