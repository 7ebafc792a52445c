#!/usr/bin/env python3
"""constraint_check.py PROGRAM [SEED]: answers drawn by test_constraint_random, against Python's jsonschema.

The program checks types and sizes itself; patterns, formats and how schemas combine are checked here by somebody else's
reading of the standard. oneOf is read as anyOf, as docs/JSON.md says of our side.
"""
import datetime
import json
import os
import subprocess
import sys
import tempfile
import time

try:
    import jsonschema
except ImportError:
    print("SKIPPED: constraint_check: python3-jsonschema is not installed")
    sys.exit(1 if os.environ.get("MW_TEST_NO_SKIP") == "1" else 77)


def one_of_as_any_of(schema):
    if isinstance(schema, dict):
        return {("anyOf" if k == "oneOf" else k): v if k in ("const", "enum") else one_of_as_any_of(v)
                for k, v in schema.items()}
    return [one_of_as_any_of(v) for v in schema] if isinstance(schema, list) else schema


checker = jsonschema.FormatChecker()


# The checker's own "time" is that of an old draft.
@checker.checks("time", ValueError)
def is_time(value):
    if isinstance(value, str):
        datetime.time.fromisoformat(value[:8])
    return True


@checker.checks("date-time", ValueError)
def is_date_time(value):
    if isinstance(value, str):
        datetime.datetime.fromisoformat(value[:19])
    return True


def main():
    program = sys.argv[1]
    seed = sys.argv[2] if len(sys.argv) > 2 else str(int(time.time()))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "answers.jsonl")
        run = subprocess.run([program, seed, "800", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        if run.returncode != 0:
            print(run.stdout.decode(errors="replace"))
            return 1
        answers = [json.loads(line) for line in open(path, encoding="utf-8")]
    bad = 0
    for a in answers:
        schema = one_of_as_any_of(a["schema"])
        validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
        for error in validator.iter_errors(json.loads(a["text"])):
            bad += 1
            print("schema %s\nanswer %s\n%s\n" % (json.dumps(a["schema"]), a["text"], error.message))
    print("seed %s: %d answers, %d do not satisfy their schemas" % (seed, len(answers), bad))
    return 1 if bad or len(answers) < 1000 else 0


sys.exit(main())
