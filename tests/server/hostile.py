#!/usr/bin/env python3
"""Requests that nobody should send: each is refused with the right status, in OpenAI's shape where HTTP got that far, and
the server goes on.

usage: hostile.py BUILD_DIR MODEL.h5
"""
import json
import sys

from common import PROMPT, Server, check, finish

BUILD, MODEL = sys.argv[1], sys.argv[2]
C, CHAT = "/v1/completions", "/v1/chat/completions"
USER = [{"role": "user", "content": "How now?"}]


def ok_error(r, status, param=None):
    code, _, body = r
    e = body.get("error") if isinstance(body, dict) else None
    return code == status and e and isinstance(e["message"], str) and e["message"] and "type" in e and "code" in e and \
        (param is None or e["param"] == param)


def bodies(s):
    """Whatever stands in a body, it is 400."""
    deep = "[" * 100000
    table = [
        ("no body", b"", None), ("blanks", b"   ", None), ("half a JSON", b'{"prompt": "x"', None), ("not JSON", b"hello", None),
        ("a list", b"[]", None), ("a string", b'"x"', None), ("two values", b'{"prompt":"x"} {}', None),
        ("invalid UTF-8", b'{"prompt": "\xff\xfe"}', None), ("cut UTF-8", b'{"prompt": "\xe2\x82"}', None),
        ("a lone surrogate", b'{"prompt": "\\ud800"}', None), ("NUL in a text", b'{"prompt": "a\\u0000b"}', None),
        ("a NUL byte", b'{"prompt": "a\0b"}', None), ("deep lists", deep.encode(), None),
        ("deep objects", b'{"a":' * 50000, None), ("deep, closed", ('{"prompt":' + "[" * 3000 + "]" * 3000 + "}").encode(), None),
        ("an integer of 40 digits", b'{"prompt":"x","max_tokens":' + b"9" * 40 + b"}", None),
        ("1e999", b'{"prompt":"x","temperature":1e999}', None), ("NaN", b'{"prompt":"x","temperature":NaN}', None),
        ("Infinity", b'{"prompt":"x","temperature":Infinity}', None), ("2^63 tokens", b'{"prompt":"x","max_tokens":9223372036854775807}', "max_tokens"),
    ]
    for name, body, param in table:
        check("400: " + name, ok_error(s.post(C, body), 400, param), s.post(C, body))


def fields(s):
    table = [
        (C, {}, "prompt"), (C, {"prompt": None}, "prompt"), (C, {"prompt": 7}, "prompt"), (C, {"prompt": {}}, "prompt"),
        (C, {"prompt": []}, "prompt"), (C, {"prompt": [1, "a"]}, "prompt"), (C, {"prompt": ["a", 1]}, "prompt"),
        (C, {"prompt": [-1]}, "prompt"), (C, {"prompt": [999999999]}, "prompt"), (C, {"prompt": [1.5]}, "prompt"),
        (C, {"prompt": [[1], [True]]}, "prompt"), (C, {"prompt": ["x"] * 200, "n": 100}, "n"),
        (C, {"prompt": "x", "max_tokens": -5}, "max_tokens"), (C, {"prompt": "x", "max_tokens": "5"}, "max_tokens"),
        (C, {"prompt": "x", "max_tokens": 1.5}, "max_tokens"), (C, {"prompt": "x", "temperature": -1}, "temperature"),
        (C, {"prompt": "x", "temperature": "hot"}, "temperature"), (C, {"prompt": "x", "top_p": 0}, "top_p"),
        (C, {"prompt": "x", "top_p": 1.5}, "top_p"), (C, {"prompt": "x", "top_k": -2}, "top_k"), (C, {"prompt": "x", "min_p": 2}, "min_p"),
        (C, {"prompt": "x", "n": 0}, "n"), (C, {"prompt": "x", "n": 129}, "n"), (C, {"prompt": "x", "seed": "a"}, "seed"),
        (C, {"prompt": "x", "stop": 5}, "stop"), (C, {"prompt": "x", "stop": [""]}, "stop"), (C, {"prompt": "x", "stop": ["a", 3]}, "stop"),
        (C, {"prompt": "x", "stop": ["a"] * 65}, "stop"), (C, {"prompt": "x", "stop": "y" * 2000}, "stop"),
        (C, {"prompt": "x", "stop_token_ids": [-1]}, "stop_token_ids"), (C, {"prompt": "x", "logprobs": 21}, "logprobs"),
        (C, {"prompt": "x", "logprobs": -1}, "logprobs"), (C, {"prompt": "x", "logit_bias": []}, "logit_bias"),
        (C, {"prompt": "x", "logit_bias": {"a": 1}}, "logit_bias"), (C, {"prompt": "x", "logit_bias": {"5": 101}}, "logit_bias"),
        (C, {"prompt": "x", "logit_bias": {"99999999999999999999": 1}}, "logit_bias"), (C, {"prompt": "x", "presence_penalty": 3}, "presence_penalty"),
        (C, {"prompt": "x", "frequency_penalty": -3}, "frequency_penalty"), (C, {"prompt": "x", "repetition_penalty": 0}, "repetition_penalty"),
        (C, {"prompt": "x", "stream": "yes"}, "stream"), (C, {"prompt": "x", "stream_options": {"include_usage": True}}, "stream_options"),
        (C, {"prompt": "x", "stream": True, "stream_options": 1}, "stream_options"), (C, {"prompt": "x", "suffix": "y"}, "suffix"),
        (C, {"prompt": "x", "best_of": 3}, "best_of"), (C, {"prompt": "x", "echo": 1}, "echo"), (C, {"prompt": "x", "user": 1}, "user"),
        (C, {"prompt": "x", "model": 1}, "model"), (C, {"prompt": "x", "use_beam_search": True}, "use_beam_search"),
        (C, {"prompt": "x", "guided_regex": "a"}, "guided_regex"), (C, {"prompt": "x", "min_tokens": 3}, "min_tokens"),
        (C, {"prompt": "x", "response_format": {"type": "xml"}}, "response_format"),
        (C, {"prompt": "x", "response_format": {"type": "json_schema"}}, "response_format"),
        (C, {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no"}}}}, "response_format"),
        (C, {"prompt": "x", "response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "response_format"),
        (C, {"prompt": "x", "prompt_logprobs": 1}, "prompt_logprobs"),
        (C, {"prompt": "word " * 5000}, "prompt"), (C, {"prompt": list(range(100, 1200))}, "prompt"),
        (CHAT, {}, "messages"), (CHAT, {"messages": []}, "messages"), (CHAT, {"messages": "x"}, "messages"), (CHAT, {"messages": [1]}, "messages"),
        (CHAT, {"messages": [{}]}, "messages"), (CHAT, {"messages": [{"role": 1, "content": "x"}]}, "messages"),
        (CHAT, {"messages": [{"role": "user"}]}, "messages"), (CHAT, {"messages": [{"role": "user", "content": 5}]}, "messages"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        (CHAT, {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}]}, "messages"),
        (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs"), (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        (CHAT, {"messages": USER, "logprobs": 3}, "logprobs"), (CHAT, {"messages": USER, "tools": 1}, "tools"),
        (CHAT, {"messages": USER, "tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        (CHAT, {"messages": USER, "tool_choice": "required"}, "tool_choice"), (CHAT, {"messages": USER, "functions": [{}]}, "functions"),
        (CHAT, {"messages": USER, "chat_template": "x"}, "chat_template"), (CHAT, {"messages": USER, "chat_template_kwargs": 3}, "chat_template_kwargs"),
        (CHAT, {"messages": USER, "max_completion_tokens": -1}, "max_completion_tokens"),
        (CHAT, {"messages": [{"role": "user", "content": "word " * 5000}]}, "messages"),
        ("/tokenize", {}, "prompt"), ("/tokenize", {"prompt": 3}, "prompt"), ("/detokenize", {}, "tokens"), ("/detokenize", {"tokens": [-1]}, "tokens"),
        ("/detokenize", {"tokens": "x"}, "tokens"),
    ]
    for path, body, param in table:
        r = s.post(path, body)
        check("400, %s: %s %s" % (param, path, json.dumps(body)[:50]), ok_error(r, 400, param), r)
    r = s.post(C, {"prompt": "word " * 5000})
    check("a prompt that is too long has OpenAI's code", r[2]["error"]["code"] == "context_length_exceeded", r)
    for path, body in ((C, {"prompt": "x", "model": "nope"}), (CHAT, {"messages": USER, "model": "nope"}), ("/tokenize", {"prompt": "x", "model": "no"})):
        check("404: another model's name, %s" % path, ok_error(s.post(path, body), 404, "model"), s.post(path, body))


def status_of(raw):
    return int(raw.split(b" ", 2)[1]) if raw.startswith(b"HTTP/1.1 ") else None


def http_level(s):
    check("404", ok_error(s.get("/nothing"), 404) and ok_error(s.get("/v1/models/../../etc/passwd"), 404))
    for method, path, allow in (("GET", C, "POST"), ("DELETE", "/v1/models", "GET, HEAD"), ("POST", "/health", "GET, HEAD"), ("OPTIONS", C, "POST")):
        r = s.request(method, path)
        check("405: %s %s" % (method, path), ok_error(r, 405) and r[1]["Allow"] == allow, r)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""):
        r = s.post(C, b'{"prompt":"x"}', headers={"Content-Type": kind})
        check("415: '%s'" % kind, ok_error(r, 415), r)
    r = s.post(C, b'{"prompt":"x","max_tokens":1}', headers={"Content-Type": "application/json; charset=utf-8"})
    check("a charset is no offence", r[0] == 200, r)
    check("415: gzip", ok_error(s.post(C, b"x", headers={"Content-Encoding": "gzip"}), 415))
    r = s.request("HEAD", "/health")
    check("HEAD", r[0] == 200 and r[2] == "", r)
    r = s.post(C, b'{"prompt":"' + b"x" * (1 << 20) + b'"}')
    check("413: beyond --max-body", ok_error(r, 413), r)
    r = s.request("POST", C, iter([b'{"prompt":"'] + [b"x" * 65536] * 20))
    check("413: the same in chunks, told late", ok_error(r, 413), r)
    check("413: before a body that waits for consent", b" 413 " in s.raw(
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 999999999999\r\n\r\n"))
    head = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    table = [
        ("a chunk size that is none", head + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n"),
        ("a chunk size of 2^70", head + b"Transfer-Encoding: chunked\r\n\r\n400000000000000000\r\nx\r\n0\r\n\r\n"),
        ("a chunk without its end", head + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdefgh\r\n0\r\n\r\n"),
        ("a length that is none", head + b"Content-Length: many\r\n\r\n{}"),
        ("a negative length", head + b"Content-Length: -5\r\n\r\n{}"),
        ("a length of 2^80", head + b"Content-Length: 1208925819614629174706176\r\n\r\n{}"),
        ("no Host", b"GET /health HTTP/1.1\r\n\r\n"),
        ("a header of 100 kB", b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 100000 + b"\r\n\r\n"),
        ("10000 headers", b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 10000 + b"\r\n"),
        ("a path of 100 kB", b"GET /" + b"y" * 100000 + b" HTTP/1.1\r\nHost: x\r\n\r\n"),
        ("noise", bytes(range(256)) * 20),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"x" * 200),
    ]
    for name, data in table:
        out = s.raw(data, timeout=5, shut=True)
        code = status_of(out)
        check("4xx or closed: " + name, out == b"" or (code is not None and 400 <= code < 500) or code in (501, 505), out[:200])
    out = s.raw(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    check("two requests in one packet, two answers", out.count(b"HTTP/1.1 200") == 2, out)
    out = s.raw(b"GET /health HTTP/1.0\r\n\r\n")
    check("HTTP/1.0", b" 200 " in out, out)


def main():
    with Server(BUILD, MODEL, args=["--max-body", "1000000", "--max-queue", "1100"]) as s:
        bodies(s)
        fields(s)
        http_level(s)
        r = s.post(C, {"prompt": PROMPT, "max_tokens": 4, "temperature": 0})
        check("and it still answers", r[0] == 200 and r[2]["choices"][0]["text"].startswith(" a man"), r)
        f = s.idle()
        check("nothing is left behind", (f["running"], f["waiting"]) == (0, 0) and f["kv_blocks_free"] == f["kv_blocks"], f)
    finish()


main()
