#!/usr/bin/env python3
"""Writes goldens.json: small tokenizers of every kind we open, and what the Hugging Face tokenizers library makes of a
corpus with them. Needs the packages `tokenizers` (0.23) and nothing else; the corpus is below.

    make_goldens.py [goldens.json]

goldens.json: {"models": {name: model}, "texts": [...], "cases": [{"name", "model", "flags", "top", "texts": [...]}]}.
A case's tokenizer.json is its `top` with "model" = models[model] changed by `flags`. For texts[i] a case has
[ids, ids with specials as text (null: the same), decoded, decoded without specials (null: the same)], where ids are with
what the post-processor adds and decoding is of these ids. `rounds` are further id lists with both decodings.
"""
import json
import random
import sys

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

TRAIN = """
The quick brown fox jumps over the lazy dog. The rain in the north falls on the hills and the old stone houses, and the
people who live there walk slowly to the market in the morning. They're sure that it's fine, we've seen it; I'll go, you'd
stay, he'd said he'd been there. A program is a list of steps that a machine can follow without asking what they are for.
int main(int argc, char **argv) { for (int i = 0; i < argc; i++) { printf("%s\\n", argv[i]); } return 0; }
def function(self, value=None):
    if value is None:
        return [x * 2 for x in range(10) if x % 3 == 0]
    else:
        self.items[value] += 1    # count the value
<div class="box"><a href="https://www.example.org/index.html?page=1&amp;size=20">link</a></div>
SELECT name, count(*) FROM table WHERE id >= 1000 AND price < 19.99 GROUP BY name ORDER BY 2 DESC;
In 1999 there were 365 days, 12 months and 52 weeks; 2024 had 366. 3.14159 and 2.71828 are numbers. 100 200 300 1,000,000
Der schnelle braune Fuchs springt \u00fcber den faulen Hund. Die gr\u00f6\u00dften H\u00e4user stehen auf der anderen Stra\u00dfenseite.
Le gar\u00e7on mange une cr\u00eape pr\u00e8s de la fen\u00eatre, l'\u00e9t\u00e9 \u00e0 No\u00ebl. O\u00f9 est la biblioth\u00e8que ? L\u00e0-bas, \u00e0 c\u00f4t\u00e9 de l'\u00e9glise.
El ni\u00f1o peque\u00f1o come una manzana en la monta\u00f1a. \u00bfD\u00f3nde est\u00e1 el tren? \u00a1Qu\u00e9 d\u00eda tan bonito!
\u0411\u044b\u0441\u0442\u0440\u0430\u044f \u043b\u0438\u0441\u0430 \u043f\u0440\u044b\u0433\u0430\u0435\u0442 \u0447\u0435\u0440\u0435\u0437 \u043b\u0435\u043d\u0438\u0432\u0443\u044e \u0441\u043e\u0431\u0430\u043a\u0443. \u0412 \u0433\u043e\u0440\u043e\u0434\u0435 \u0438\u0434\u0451\u0442 \u0434\u043e\u0436\u0434\u044c, \u0438 \u043b\u044e\u0434\u0438 \u0438\u0434\u0443\u0442 \u0434\u043e\u043c\u043e\u0439.
\u0397 \u03b3\u03c1\u03ae\u03b3\u03bf\u03c1\u03b7 \u03b1\u03bb\u03b5\u03c0\u03bf\u03cd \u03c0\u03b7\u03b4\u03ac \u03c0\u03ac\u03bd\u03c9 \u03b1\u03c0\u03cc \u03c4\u03bf \u03c3\u03ba\u03cd\u03bb\u03bf. \u039a\u03b1\u03bb\u03b7\u03bc\u03ad\u03c1\u03b1 \u03c3\u03b1\u03c2.
\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u6563\u6b65\u3002\u6211\u559c\u6b22\u5b66\u4e60\u65b0\u7684\u8bed\u8a00\uff0c\u4f60\u5462\uff1f\u4eca\u5929\u662f\u661f\u671f\u4e00\u3002
\u4eca\u65e5\u306f\u3044\u3044\u5929\u6c17\u3067\u3059\u306d\u3002\u79c1\u306f\u65e5\u672c\u8a9e\u3092\u52c9\u5f37\u3057\u3066\u3044\u307e\u3059\u3002\u30b3\u30fc\u30d2\u30fc\u3092\u98f2\u307f\u307e\u3059\u3002
\uc624\ub298 \ub0a0\uc528\uac00 \uc88b\uc2b5\ub2c8\ub2e4. \uc800\ub294 \ud55c\uad6d\uc5b4\ub97c \uacf5\ubd80\ud569\ub2c8\ub2e4.
\u0627\u0644\u062b\u0639\u0644\u0628 \u0627\u0644\u0628\u0646\u064a \u0627\u0644\u0633\u0631\u064a\u0639 \u064a\u0642\u0641\u0632 \u0641\u0648\u0642 \u0627\u0644\u0643\u0644\u0628 \u0627\u0644\u0643\u0633\u0648\u0644. \u0645\u0631\u062d\u0628\u0627
\u0924\u0947\u091c\u093c \u092d\u0942\u0930\u0940 \u0932\u094b\u092e\u0921\u093c\u0940 \u0906\u0932\u0938\u0940 \u0915\u0941\u0924\u094d\u0924\u0947 \u0915\u0947 \u090a\u092a\u0930 \u0938\u0947 \u0915\u0942\u0926\u0924\u0940 \u0939\u0948\u0964 \u0928\u092e\u0938\u094d\u0924\u0947
\U0001f600 \U0001f602 \U0001f44d \u2764\ufe0f \U0001f680
"""

TEXTS = [
    "", " ", "  ", "   ", "\n", "\n\n", " \n", "\r\n", "\t", "\t\tx", "a", " a", "a ", "  a  b  ", "Hello", "Hello world",
    "Hello, world! How are you?", "I'll we've DON'T it's 'tis o'er 'S 'LL they\u2019re", "'s't're've'm'll'd 'S'T'RE \u017f'\u017f",
    "1", "12", "123", "1234", "1234567890", "3.14159 1,000,000 2024-05-17 \u0663\u0661\u0664 \u2460\u2161\u00bd x\u00b2",
    "def f(x):\n    return x*2  # twice\n\n\nclass A:\n\tpass\n", "for (int i=0;i<10;++i) { a[i] += b->c; }\r\n\r\n",
    "<div class=\"a\">&amp;</div>", "a_b-c.d/e\\f@g#h$i%j^k&l*m(n)o+p=q{r}s[t]u|v~w`x", "...!!!???---", "\"quoted\" 'single' \u201ccurly\u201d \u2026",
    "https://example.org/path?q=1&r=%20#frag", "x\u00a0y \u00a0 z\u00a0", "a\u3000b\u3000\u3000c \u3000d", "a\u2003b\u2028c\u2029d\u0085e\u180ef\u200bg\ufeffh",
    "tab\tand\r\nCRLF\r\n\r\n  \r\n end   ", "line1\n  line2\n    line3\n", "   leading and trailing   ", "x  y   z    w     v",
    "na\u00efve caf\u00e9 \u2014 na\u0131\u0308ve cafe\u0301", "e\u0301\u0323 e\u0323\u0301 \u1eb9\u0301 o\u0302\u0301 a\u030a \u212b", "\uac00\u1100\u1161\u11a8 \ud55c\uad6d\uc5b4 \u1112\u1161\u11ab",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0915\u094d\u0937\u093f \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0bb5\u0ba3\u0b95\u0bcd\u0b95\u0bae\u0bcd",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u0645\u064e\u0631\u0652\u062d\u064e\u0628\u0627", "\ufb01 \ufb03 \u2126 \u2460 \uff21\uff22\uff23 \u33a1 \u00bc",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002Hello\u4e16\u754c123\u4f60\u597d", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3068\uff71\uff72\uff73", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0419 \u0438\u0306",
    "\U0001f600\U0001f603", "\U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \u2764\ufe0f 1\ufe0f\u20e3",
    "\U0001fae8\U0001f6dc \U00031350\U00031351\U0002ebf0 \u0897\u1c89\ua7cb \U00010d40\U00010d41", "\u0e01\u0e33\u0e19\u0e49\u0e33 \u0300\u0301", "\U00020000\U0001d4d0\U0001d7d8",
    "<s>", "</s>", "<unk>", "<s> a</s>b", " <s> ", "<s><s>", "x<|endoftext|>y", "<|im_start|>user\nHi there<|im_end|>\n<|im_start|>assistant\n",
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>", "<|begin_of_text", "<|begin_of_text|", "<|<|im_end|>|>",
    "[INST] Hi [/INST] there </s>", "<tool_call>\n{\"name\": \"f\"}\n</tool_call>", "one <mask>   two", "aa  <mask>b", "<mask>  <mask>x  <mask>y xyzzy\n<mask>", "word xword word. wordx word",
    "\u2581", "\u2581\u2581a \u2581b", "a\u2581 b", "<0x0A> <0x41>", "\ufffd\ufffd", "\x00\x01\x1f\x7f", "caf\u00e9<s>caf\u00e9", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "the the the the the  the", "unaffable internationalization", "ABC AbC aBC abC IPhone XMLHttpRequest \u01c5a", " \u4eca \u5929 ", "\u2e3a\u10ffff\U0010ffff",
    "a" + "\u0301\u0323\u0334\u0345\u0315" * 6 + "e\u0323\u0301", "\u0344\u0f73\u0958\u2adc\ufb1d \u0301a\u1dfa\u0301 \u0cc6\u0cc2\u0cd5",
    "\U0001d15e\u09c7\u09be \U00011935\U00011930 \u32ff \u0958\u093c",
]

LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
          r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CJK_SPLIT = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
             r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]

SP = "\u2581"


def bytelevel(prefix=False, regex=False):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def split(pattern, behavior="Isolated", invert=False, kind="Regex"):
    return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}


def seq(key, *parts):
    return {"type": "Sequence", key: list(parts)}


def pre(*parts):
    return seq("pretokenizers", *parts)


def replace(a, b, kind="String"):
    return {"type": "Replace", "pattern": {kind: a}, "content": b}


def metaspace(scheme, do_split):
    return {"type": "Metaspace", "replacement": SP, "prepend_scheme": scheme, "split": do_split}


def added(first, *contents, **how):
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    flags.update(how)
    return [{"id": first + i, "content": c, **flags} for i, c in enumerate(contents)]


def template(before, after=()):
    def piece(t):
        return {"SpecialToken": {"id": t[0], "type_id": 0}}
    single = [piece(t) for t in before] + [{"Sequence": {"id": "A", "type_id": 0}}] + [piece(t) for t in after]
    pair = single + [{"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair,
            "special_tokens": {c: {"id": c, "ids": [i], "tokens": [c]} for c, i in list(before) + list(after)}}


def train(tokenizer, size, specials, alphabet):
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=specials, initial_alphabet=alphabet, show_progress=False,
                                  max_token_length=12)
    tokenizer.train_from_iterator(TRAIN.strip("\n").split("\n"), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    model["merges"] = [" ".join(m) for m in model["merges"]]
    return model


def train_models():
    byte = Tokenizer(models.BPE())
    byte.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    sp = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    sp.normalizer = normalizers.Sequence([normalizers.Prepend(SP), normalizers.Replace(" ", SP)])
    sp.pre_tokenizer = pre_tokenizers.Split(SP, "merged_with_next")
    specials = ["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)]
    out = {"byte": train(byte, 900, [], pre_tokenizers.ByteLevel.alphabet()), "sp": train(sp, 900, specials, [SP])}
    vocab = out["sp"]["vocab"]  # runs of spaces, as in Llama-2's vocabulary
    for i, merge in enumerate([SP + " " + SP, SP * 2 + " " + SP * 2]):
        vocab[merge.replace(" ", "")] = len(vocab)
        out["sp"]["merges"].insert(3 * i, merge)
    # Merges across the space between words, so that no word can be merged on its own.
    pairs = [("a", SP), (SP, "a"), ("e", SP), (SP, "t"), ("t", "h"), (SP + "t", "h"), ("th", "e"), ("e" + SP, "th"), ("the", SP)]
    tokens = ["<unk>", "<s>", "</s>", SP] + list("abcdefghijklmnopqrstuvwxyz") + [l + r for l, r in pairs if l + r != "the" or l == "th"]
    out["cross"] = {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "vocab": {t: i for i, t in enumerate(dict.fromkeys(tokens))},
                    "merges": [list(x) for x in pairs]}
    return out


def cases(m):
    n, k = len(m["byte"]["vocab"]), len(m["sp"]["vocab"])
    sp_decoder = seq("decoders", replace(SP, " "), {"type": "ByteFallback"}, {"type": "Fuse"},
                     {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    sp_added = added(0, "<unk>", "<s>", "</s>")
    sp_post = template([("<s>", 1)])
    legacy = seq("normalizers", {"type": "Prepend", "prepend": SP}, replace(" ", SP))
    bos = "<|begin_of_text|>"
    out = []

    def case(name, model, flags=None, **top):
        whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
                 "pre_tokenizer": None, "post_processor": None,
                 "decoder": bytelevel(True, True) if model == "byte" else sp_decoder}
        whole.update(top)
        out.append({"name": name, "model": model, "flags": flags or {}, "top": whole})

    case("llama-3", "byte", {"ignore_merges": True}, pre_tokenizer=pre(split(LLAMA3), bytelevel()),
         added_tokens=added(n, bos, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
         post_processor=seq("processors", bytelevel(), template([(bos, n)])))
    case("qwen2", "byte", {"continuing_subword_prefix": "", "end_of_word_suffix": ""}, normalizer={"type": "NFC"},
         pre_tokenizer=pre(split(QWEN2), bytelevel()), post_processor=bytelevel(),
         added_tokens=added(n, "<|endoftext|>", "<|im_start|>", "<|im_end|>") +
         added(n + 3, "<tool_call>", "</tool_call>", special=False))
    case("gpt-2", "byte", pre_tokenizer=bytelevel(True, True), post_processor=bytelevel(),
         added_tokens=added(n, "<|endoftext|>", normalized=True) + added(n + 1, "<mask>", "<mask>x", lstrip=True))
    case("tekken", "byte", {"ignore_merges": True}, pre_tokenizer=pre(split(TEKKEN), bytelevel()),
         added_tokens=added(n, "<s>", "</s>", "[INST]", "[/INST]"), post_processor=template([("<s>", n)], [("</s>", n + 1)]))
    case("cjk", "byte", pre_tokenizer=pre(*[split(r) for r in CJK_SPLIT], {"type": "Digits", "individual_digits": True}, bytelevel()),
         post_processor={"type": "RobertaProcessing", "sep": ["</s>", n + 1], "cls": ["<s>", n], "trim_offsets": True,
                         "add_prefix_space": False},
         added_tokens=added(n, "<s>", "</s>"))
    case("llama-2 legacy", "sp", added_tokens=sp_added, normalizer=legacy, post_processor=sp_post)
    case("llama-2 metaspace", "sp", added_tokens=sp_added, pre_tokenizer=metaspace("first", False), post_processor=sp_post)
    case("crossing", "cross", added_tokens=sp_added, normalizer=legacy, post_processor=sp_post)
    case("crossing, unfused", "cross", {"fuse_unk": False, "ignore_merges": True}, normalizer=legacy)
    case("metaspace always", "sp", {"byte_fallback": False, "fuse_unk": False}, added_tokens=sp_added,
         pre_tokenizer=metaspace("always", True), decoder=metaspace("always", True),
         post_processor=template([("<s>", 1)], [("</s>", 2)]))
    case("metaspace never", "sp", {"byte_fallback": False}, added_tokens=sp_added, pre_tokenizer=metaspace("never", True),
         decoder=metaspace("never", True))
    case("no unk", "sp", {"byte_fallback": False, "unk_token": None}, pre_tokenizer=metaspace("first", True),
         normalizer=seq("normalizers", {"type": "Strip", "strip_left": True, "strip_right": False}, replace("a", "aa"),
                        {"type": "Prepend", "prepend": "q"}),
         added_tokens=added(k, "<mask>", lstrip=True, rstrip=True))
    case("gemma", "sp", {"fuse_unk": False}, added_tokens=sp_added, normalizer=replace(" ", SP),
         pre_tokenizer=split(" ", "MergedWithPrevious", kind="String"),
         decoder=seq("decoders", replace(SP, " "), {"type": "ByteFallback"}, {"type": "Fuse"}))
    case("strip and words", "sp", {"ignore_merges": True},
         normalizer=seq("normalizers", {"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFKC"},
                        replace(r"\s+", SP, "Regex")),
         pre_tokenizer=pre(split(r"\p{P}", "Removed"), split("[aeiou]+", "Contiguous"), {"type": "Digits", "individual_digits": False}),
         added_tokens=added(k, "word", special=False, single_word=True, normalized=True) +
         added(k + 1, "<mask>", rstrip=True, normalized=True))
    case("marks", "byte", normalizer={"type": "NFKD"},
         pre_tokenizer=pre(split(r"\p{M}", "MergedWithPrevious"), split(r"\S+", "MergedWithNext", True), bytelevel(True, False)),
         added_tokens=added(n, "caf\u00e9", "<mask>", special=False, normalized=True))
    case("odd regex", "byte", pre_tokenizer=pre(split(r"(?<=[ae])[lmnr]|[xyz]*|\w$".replace(r"\w", r"\p{L}"), "MergedWithPrevious"),
                                              split("th", "Removed", kind="String"), bytelevel()))
    case("nfd", "byte", normalizer={"type": "NFD"}, pre_tokenizer=bytelevel(False, True))
    return out


def goldens(case, models_, rounds):
    top = dict(case["top"], model=dict(models_[case["model"]], **case["flags"]))
    t = Tokenizer.from_str(json.dumps(top))
    r = random.Random(case["name"])
    rows = []
    for text in TEXTS:
        ids = t.encode(text).ids
        t.encode_special_tokens = True
        plain = t.encode(text).ids
        t.encode_special_tokens = False
        decoded, skipped = t.decode(ids, skip_special_tokens=False), t.decode(ids)
        rows.append([ids, plain if plain != ids else None, decoded, skipped if skipped != decoded else None])
    case["texts"] = rows
    case["rounds"] = []
    size = t.get_vocab_size()
    for _ in range(rounds):
        low = 3 + 256 if case["model"] == "sp" else 256  # many of the ids are byte tokens
        ids = [r.randrange(r.choice([min(low, size), size])) for _ in range(r.randrange(1, 14))]
        case["rounds"].append([ids, t.decode(ids, skip_special_tokens=False), t.decode(ids)])


def main():
    m = train_models()
    all_cases = cases(m)
    for c in all_cases:
        goldens(c, m, 12)
    with open(sys.argv[1] if len(sys.argv) > 1 else "goldens.json", "w") as f:
        json.dump({"models": m, "texts": TEXTS, "cases": all_cases}, f, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
