"""Writes golden.json and cases.json: what Python's Jinja2, set up as transformers sets it up for chat templates, makes
of templates/*.jinja with many conversations, and of every line of cases.txt.

    python tests/data/chat/make_chat.py        (needs jinja2 >= 3.1.6)
"""
import datetime
import json
import os
import pathlib
import time
import warnings

import jinja2
import jinja2.ext
import jinja2.sandbox

HERE = pathlib.Path(__file__).parent
NOW = 1700000000.123456  # what strftime_now takes for the current time, in UTC
os.environ["TZ"] = "UTC"
time.tzset()
warnings.simplefilter("ignore")  # unknown escapes in strings


class Raised(Exception):
    """A template called raise_exception."""


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("text_of"), [], [], body).set_lineno(line)

    def text_of(self, caller):
        return caller()


class PublicNamespace(jinja2.utils.Namespace):
    def __init__(*args, **kwargs):
        self, values = args[0], dict(*args[1:], **kwargs)
        for name in values:
            PublicNamespace.check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name, value):
        PublicNamespace.check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def check(name):
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(name)


def environment():
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise Raised(str(message))

    def strftime_now(format):
        return datetime.datetime.fromtimestamp(NOW).strftime(format)

    env.filters["tojson"] = tojson
    env.globals.update(raise_exception=raise_exception, strftime_now=strftime_now, namespace=PublicNamespace)
    env.globals["dict"] = lambda *args, **kwargs: dict(*args, **kwargs)
    return env


ENV = environment()


def expected(template, variables):
    """The text, or {"raise": text}, or {"error": "open"} if it does not compile, or {"error": "render"}."""
    try:
        compiled = ENV.from_string(template)
    except Exception:
        return {"error": "open"}
    try:
        return compiled.render(**variables)
    except Raised as e:
        return {"raise": str(e)}
    except Exception:
        return {"error": "render"}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def call(name, arguments, id=None):
    c = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return c if id is None else {"id": id, **c}


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": 'The weather at a "place",\nnow or later',
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "description": "City, e.g. Zürich\n(no country)"},
                "days": {"type": "array", "items": {"type": "integer"}},
                "unit": {"type": "string", "enum": ["°C", "°F"]},
                "where": {
                    "type": "object",
                    "properties": {"lat": {"type": "number"}, "tags": {"type": ["string", "null"]}, "any": {}},
                    "required": ["lat"],
                },
            },
            "required": ["place"],
        },
    },
}
NOTHING = {"type": "function", "function": {"name": "nothing", "parameters": {"type": "object", "properties": {}}}}

SHORT = [say("user", "Hello")]
LONG = [
    say("system", "You are terse.\n"),
    say("user", "  What is 2+2?  "),
    say("assistant", "<think>\nEasy.\n</think>\n\n4"),
    say("user", "And 3+3?"),
    say("assistant", " 6\n"),
    say("user", "Danke schön! 日本語 🎉 'quoted' \"twice\" <b>&</b> \\n {{ x }} {% y %}"),
]
TOOLS = [
    say("system", "Use tools."),
    say("user", "Weather in Zürich?"),
    say("assistant", None, tool_calls=[call("get_weather", {"place": "Zürich", "days": [1, 2], "lat": 1.0}, "abcdef123")]),
    say("tool", '{"temp": 21.5}', tool_call_id="abcdef123", name="get_weather"),
    say("tool", "sunny", tool_call_id="abcdef124"),
    say("assistant", "21.5 and sunny."),
    say("user", "Thanks"),
]
CONVERSATIONS = [
    dict(messages=SHORT, agp=True),
    dict(messages=SHORT, agp=False),
    dict(messages=[], agp=True),
    dict(messages=[say("system", "Only a system message")], agp=True),
    dict(messages=LONG, agp=True),
    dict(messages=LONG[1:], agp=True),
    dict(messages=LONG[1:5], agp=False),
    dict(messages=LONG[1:2] + LONG[1:2], agp=True),
    dict(messages=[say("assistant", "I begin."), say("user", "No, I.")], agp=True),
    dict(messages=[say("user", ""), say("assistant", ""), say("user", "\n\n")], agp=True),
    dict(messages=[say("user", "x"), say("assistant", None)], agp=False),
    dict(messages=[{"role": "user"}], agp=True),
    dict(messages=[{"content": "no role"}], agp=True),
    dict(messages=[say("user", [{"type": "text", "text": " a "}, {"type": "image"}, {"type": "text", "text": "b"}])], agp=True),
    dict(messages=TOOLS, tools=[WEATHER, NOTHING], agp=True),
    dict(messages=TOOLS[1:], tools=[WEATHER], agp=False),
    dict(messages=SHORT, tools=[NOTHING], agp=True, extra={"tools_in_user_message": False, "date_string": "1 May 2025"}),
    dict(messages=SHORT, tools=[], agp=True, extra={"enable_thinking": False}),
    dict(messages=TOOLS[1:3] + [say("user", "Wait")], agp=True, extra={"enable_thinking": True}),
    dict(messages=[say("user", "q"), say("assistant", "a", reasoning_content="\nbecause\n")], agp=True),
    dict(messages=[say("user", "q"), say("assistant", None, tool_calls=[call("f", {}), call("g", '{"raw": 1}', "bad")])], agp=False),
]

VARS = {
    "s": "Hello World", "u": "héllo ŵörld 日本 🎉", "e": "", "n": None, "t": True, "f": False, "i": 7, "z": 0, "x": 2.5,
    "neg": -3, "l": [1, 2, 3], "el": [], "ls": ["b", "A", "c", "a"], "d": {"a": 1, "b": "two", "items": 5, "n": None},
    "ed": {}, "nest": [[1, [2, 3]], [4, [5, 6]]], "ws": "  pad \n",
    "m": [
        say("system", "sys"),
        say("user", "hi"),
        {"role": "assistant", "content": None, "tool_calls": [{"name": "f", "arguments": {"x": 1.0, "y": [1, 2]}}]},
        say("user", [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
    ],
}  # fmt: skip


def goldens():
    out = {"now_us": round(NOW * 1e6), "bos_token": "<s>", "eos_token": "</s>", "conversations": CONVERSATIONS}
    out["templates"] = {}
    for path in sorted((HERE / "templates").glob("*.jinja")):
        template = path.read_text()
        out["templates"][path.name] = [
            expected(
                template,
                dict(
                    messages=c["messages"],
                    tools=c.get("tools"),
                    documents=None,
                    add_generation_prompt=c["agp"],
                    bos_token="<s>",
                    eos_token="</s>",
                    **c.get("extra", {}),
                ),
            )
            for c in CONVERSATIONS
        ]
    return out


def cases():
    out = []
    for line in (HERE / "cases.txt").read_text().split("\n"):
        if line and not line.startswith(("# ", "-- ")):
            template = line.replace("¶", "\n").replace("␍", "\r").replace("⇥", "\t")
            want = expected(template, VARS)
            assert not isinstance(want, str) or " at 0x" not in want, template
            out.append([template, want])
    return {"now_us": round(NOW * 1e6), "vars": VARS, "cases": out}


def write(name, value, rows):
    """JSON; the list or the lists of the dict value[rows] stand one element a line."""

    def dump(x):
        return json.dumps(x, ensure_ascii=False, separators=(",", ":"))

    def lines(x):
        return "[\n" + ",\n".join(map(dump, x)) + "]"

    many = value.pop(rows)
    if isinstance(many, dict):
        text = "{" + ",\n".join(dump(k) + ":" + lines(v) for k, v in many.items()) + "}"
    else:
        text = lines(many)
    text = dump(value)[:-1] + "," + dump(rows) + ":" + text + "}\n"
    json.loads(text)
    (HERE / name).write_text(text)
    print(name, len(text), "characters")


if __name__ == "__main__":
    write("golden.json", goldens(), "templates")
    write("cases.json", cases(), "cases")
