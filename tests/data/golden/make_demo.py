"""Writes demo.json: the golden numbers of the demo model, cut out of the shared golden files.

usage: make_demo.py CHECKPOINTS_FOLDER > demo.json      (needs numpy)
"""
import json
import sys

import numpy as np

src = sys.argv[1]
golden = json.load(open(src + "/golden.json"))
rows = np.load(src + "/golden_logits.npz")
name = "gptq-g128-sym"
gold = golden["checkpoints"][name]
for p in gold["prompts"]:
    del p["greedy_text"]
keep = {"about": "golden numbers of %s, see tests/e2e/golden.py" % name,
        "prompts": [{"name": p["name"], "text": p["text"], "ids": p["ids"]} for p in golden["prompts"]],
        "ppl_tokens": golden["ppl_tokens"],
        "chat": golden["chat"],
        "gold": {k: gold[k] for k in ("prompts", "val_nll", "val_ppl", "val_tokens_scored", "prompt0_positions")},
        "last_logits": [[round(float(x), 4) for x in rows["%s.p%d" % (name, i)]] for i in range(len(golden["prompts"]))]}
json.dump(keep, sys.stdout, separators=(",", ":"))
