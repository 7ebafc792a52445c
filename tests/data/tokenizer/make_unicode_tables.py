#!/usr/bin/env python3
"""Prints the two tables of worker/text/tok_unicode.c.

Needs a Python whose unicodedata is version 14.0 (3.11, 3.12 is 15.0) and the tokenizers package, whose regex engine
knows Unicode 16 and whose normalizers know Unicode 9: the tables hold the differences between those and Unicode 14, the
version of PCRE2 10.42.
"""
import unicodedata as ud
from tokenizers import Regex, normalizers, pre_tokenizers

assert ud.unidata_version == "14.0.0", ud.unidata_version
CHARS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
ALL = "".join(map(chr, CHARS))
CATS = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split()
SCRIPTS = ["Han", "Hiragana", "Katakana", "Latin"]
# Code points that Unicode 14 knows, of the same category, script and number of UTF-8 bytes.
STAND_IN = {
    ("Lo", "Han", 4): 0x20000, ("Lo", "", 4): 0x10000, ("So", "", 4): 0x1F300, ("Nd", "", 4): 0x104A0,
    ("Mn", "", 4): 0x101FD, ("Lm", "", 4): 0x16B40, ("Po", "", 4): 0x10100, ("Lu", "", 4): 0x10400,
    ("Ll", "", 4): 0x10428, ("Mc", "", 4): 0x11000, ("No", "", 4): 0x10107, ("So", "", 3): 0x2300,
    ("Cf", "", 4): 0x110BD, ("Ll", "Latin", 4): 0x1DF00, ("Lu", "Latin", 3): 0xA722, ("Po", "", 3): 0x2020,
    ("Sm", "", 4): 0x1D6C1, ("Ll", "Latin", 3): 0xA723, ("Mn", "", 3): 0x0941, ("Mc", "", 3): 0x0903,
    ("Pd", "", 4): 0x10EAD, ("Lu", "", 3): 0xA640, ("Ll", "", 3): 0xA641, ("Lo", "Hiragana", 4): 0x1B001,
    ("Lo", "Katakana", 4): 0x1B000,
}


def matched(prop):
    split = pre_tokenizers.Split(Regex(prop), "removed", invert=True)
    return {ord(x) for x, _ in split.pre_tokenize_str(ALL)}


def ranges(pairs):
    """[(code point, value)] sorted -> [(first, last, value)]"""
    out = []
    for c, v in pairs:
        if out and out[-1][1] == c - 1 and out[-1][2] == v:
            out[-1][1] = c
        else:
            out.append([c, c, v])
    return out


def table(rows, form):
    line = "   "
    for r in rows:
        item = " " + form(r) + ","
        if len(line) + len(item) > 118:
            print(line)
            line = "   "
        line += item
    print(line)


cat = {c: k for k in CATS for c in matched(r"\p{%s}" % k)}
script = {c: k for k in SCRIPTS for c in matched(r"\p{%s}" % k)}
late = [c for c in CHARS if c in cat and cat[c] != ud.category(chr(c))]
late = [(c, STAND_IN[cat[c], script.get(c, ""), 3 if c < 0x10000 else 4]) for c in late]
for (k, _, n), c in STAND_IN.items():
    assert ud.category(chr(c)) == k == cat[c] and n == (3 if c < 0x10000 else 4), hex(c)
print("/* late */")
table(ranges(late), lambda r: "{0x%X, 0x%X, 0x%X}" % tuple(r))

nfd, nfkd = normalizers.NFD(), normalizers.NFKD()
inert = {0x11930, 0x11935}  # the parts of U+11938, which came with Unicode 13
for c in CHARS:
    if ud.combining(chr(c)):
        s = "a\u0301" + chr(c) + "\u0334\u0323" + chr(c) + "\u0345" + chr(c) + "\u0301"
        if nfd.normalize_str(s) != ud.normalize("NFD", s):
            inert.add(c)
    elif ud.decomposition(chr(c)) and nfkd.normalize_str(chr(c)) != ud.normalize("NFKD", chr(c)):
        inert.add(c)
print("/* inert */")
table(ranges([(c, 0) for c in sorted(inert)]), lambda r: "{0x%X, 0x%X}" % (r[0], r[1]))
