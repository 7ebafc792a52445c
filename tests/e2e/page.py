#!/usr/bin/env python3
"""The page at / in a real browser, headless Chromium: a conversation, live figures, errors, keys, a phone, the dark.

usage: page.py BUILD_DIR MODEL.h5 [FOLDER for screenshots]
"""
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from cdp import Browser  # noqa: E402

os.environ["MARLIN_BACKEND"] = "cpu"
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD, MODEL = sys.argv[1], sys.argv[2]
SHOTS = sys.argv[3] if len(sys.argv) > 3 else None
CHROMIUM = next((p for p in ("chromium", "chromium-browser", "google-chrome") if shutil.which(p)), None)
failures = 0


def check(name, ok, detail=""):
    global failures
    print("%-70s %s" % (name, "ok" if ok else "FAILED  " + str(detail)[:800]), flush=True)
    failures += not ok


class Server:
    def __init__(self, np=1, model=MODEL, args=()):
        cmd = [os.path.join(ROOT, "launch", "mpirun"), "-np", str(np)] if np > 1 else []
        self.p = subprocess.Popen(cmd + [os.path.join(BUILD, "bin", "marlin-worker"), model, "--listen", "127.0.0.1:0", *args],
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for line in self.p.stdout:
            found = re.search(r"http://127\.0\.0\.1:\d+", line)
            if found:
                self.url = found.group(0)
                return
        raise RuntimeError("the server did not start")

    def stop(self):
        self.p.send_signal(signal.SIGTERM)
        try:
            self.p.wait(30)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()
        self.p.stdout.close()


def shot(b, name):
    if SHOTS:
        b.screenshot(os.path.join(SHOTS, name + ".png"))


LIVE = "document.getElementById('state').dataset.is === 'live'"
TEXT = "[...document.querySelectorAll('.answer .body')].pop()?.textContent ?? ''"
IDLE = "!document.getElementById('send').hidden"
FOOT = "[...document.querySelectorAll('.answer footer')].pop()?.textContent ?? ''"


def setting(b, name, value):
    b.js("(() => { const e = document.getElementById(%s); e.value = %s; e.dispatchEvent(new Event('input')); })()"
         % (json.dumps(name), json.dumps(str(value))))


def say(b, text):
    b.js("document.getElementById('input').focus()")
    b.type(text)
    b.key("Enter", 13)


def wide(b):
    """Elements that reach beyond the window's sides."""
    return b.js("""(() => {
      const w = document.documentElement.clientWidth;
      const out = [...document.body.querySelectorAll('*')].filter(e => {
        if (e.closest('.sr') || !e.checkVisibility()) return false;
        const r = e.getBoundingClientRect();
        for (let p = e.parentElement; p; p = p.parentElement) if (getComputedStyle(p).overflowX !== 'visible') return r.width > 0 && p.getBoundingClientRect().right > w + 1;
        return r.width > 0 && (r.right > w + 1 || r.left < -1);
      }).map(e => e.tagName + '#' + e.id + '.' + e.className);
      if (document.documentElement.scrollWidth > w) out.push('the page: ' + document.documentElement.scrollWidth);
      return out;
    })()""")


def conversation(b, url):
    b.open(url)
    check("the page loads and is live", b.wait(LIVE), b.errors)
    check("title and head name the model", "shakespeare" in b.js("document.title") and "shakespeare" in b.js("document.getElementById('model').textContent"))
    check("two ranks are shown, with memory", b.js("document.querySelectorAll('.rank').length") == 2 and
          "MB" in b.js("document.querySelector('.rank').textContent"), b.js("document.getElementById('ranks').textContent"))
    shot(b, "1-empty")
    setting(b, "max", 400)
    say(b, "To be, or not to be?")
    lengths, until, rate = [], time.monotonic() + 60, 0
    while time.monotonic() < until and not (lengths and b.js(IDLE)):
        n = b.js("(%s).length" % TEXT)
        if not lengths or n > lengths[-1]:
            lengths.append(n)
    check("text grows as it comes", len(lengths) >= 4, lengths)
    rate = b.wait("document.getElementById('rate').textContent !== '0' && document.getElementById('rate').textContent !== '–'", 5)
    check("the rate moves", rate, b.js("document.getElementById('rate').textContent"))
    shot(b, "2-answer")
    check("so does the time to the first token", b.wait("/\\d/.test(document.getElementById('ttft').textContent)", 5))
    check("and the time of a step", b.wait("/a step/.test(document.querySelector('.rank').textContent)", 5))
    foot = b.js(FOOT)
    check("an answer says its tokens and times", re.search(r"\d+ tokens · [\d.,]+ tokens/s · first after [\d.]+ m?s", foot), foot)
    before = b.js("document.querySelectorAll('.msg').length")
    say(b, "And then?")
    b.wait(IDLE, 60)
    check("the conversation goes on", b.js("document.querySelectorAll('.msg').length") == before + 2 and b.js("turns.length") == 4)
    check("the prefix cache's share is shown", b.wait("/[1-9]/.test(document.getElementById('hits').textContent)", 5))


def stopping(b):
    setting(b, "max", 900)
    b.js("document.getElementById('fresh').click()")
    check("New empties the conversation", b.js("document.querySelectorAll('.msg').length") == 0 and b.js("!document.getElementById('hello').hidden"))
    say(b, "Speak!")
    b.wait("(%s).length > 20" % TEXT)
    if b.js(IDLE):
        check("stopping: the answer was over too soon", True)
        return
    b.click("#stop")
    b.wait(IDLE, 10)
    n = b.js("(%s).length" % TEXT)
    time.sleep(0.5)
    check("Stop stops", b.js("(%s).length" % TEXT) == n and "stopped" in b.js(FOOT), b.js(FOOT))


def errors(b):
    setting(b, "max", 99999999)
    noted = len(b.errors)
    say(b, "Too much")
    b.wait("document.querySelector('[role=alert]')")
    check("the server's error is shown", "max_tokens" in b.js("document.querySelector('[role=alert]')?.textContent ?? ''"))
    check("and the text is back to be sent again", b.wait("document.getElementById('input').value === 'Too much'", 5))
    b.errors[noted:] = [e for e in b.errors[noted:] if " 400 " not in e] # the browser's own note of the answer
    b.js("document.getElementById('input').value = ''")
    setting(b, "max", 60)


def looks(b, name):
    check("nothing is wider than the window: " + name, not wide(b), wide(b))


def phone(b, url):
    b.call("Emulation.setDeviceMetricsOverride", width=360, height=740, deviceScaleFactor=2, mobile=True)
    b.open(url)
    b.wait(LIVE)
    looks(b, "a phone, empty")
    say(b, "O Romeo, " + "wherefore" * 12 + " art thou?")
    b.wait(IDLE, 60)
    looks(b, "a phone, with an answer and a long word")
    check("the figures are folded into one line", not b.js("document.getElementById('figures').open") and
          b.js("document.querySelector('#figures summary').checkVisibility()"))
    check("the message field and its button are on the screen", b.js(
        "['input', 'send'].every(i => { const r = document.getElementById(i).getBoundingClientRect(); return r.height > 30 && r.bottom <= innerHeight + 1 && r.right <= innerWidth; })"))
    shot(b, "3-phone")
    b.click("#figures summary")
    check("and unfold", b.wait("document.getElementById('figures').open", 5))
    looks(b, "a phone, figures unfolded")
    shot(b, "4-phone-figures")
    b.click("#figures summary")
    b.click("#open-settings")
    b.wait("document.getElementById('settings').open")
    looks(b, "a phone, settings")
    shot(b, "5-phone-settings")
    b.click("#settings .go")
    b.call("Emulation.clearDeviceMetricsOverride")


def dark(b):
    light = b.js("getComputedStyle(document.body).backgroundColor")
    b.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    night = b.js("getComputedStyle(document.body).backgroundColor")
    shot(b, "6-dark")
    levels = [sum(map(int, re.findall(r"\d+", c)[:3])) for c in (light, night)]
    check("light and dark", levels[0] > 600 and levels[1] < 150, (light, night))
    low = b.js("""(() => {
      const lum = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => { x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; }); return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
      const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$|transparent/.test(c)) return c; } return 'rgb(255,255,255)'; };
      return [...document.body.querySelectorAll('*')].filter(e => e.checkVisibility() && !e.disabled && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim())).map(e => {
        const a = lum(getComputedStyle(e).color), b = lum(behind(e)); return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 20)]; }).filter(x => x[0] < 4.5);
    })()""")
    check("text stands out in the dark (4.5 : 1)", not low, low)
    b.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])


def accessible(b):
    nodes = b.call("Accessibility.getFullAXTree")["nodes"]
    roles = [n.get("role", {}).get("value") for n in nodes if not n.get("ignored")]
    check("landmarks and live regions have their roles", all(r in roles for r in ("main", "log", "status", "complementary", "textbox")), sorted(set(map(str, roles))))
    nameless = [n for n in nodes if not n.get("ignored") and n.get("role", {}).get("value") in ("button", "textbox", "spinbutton") and
                not n.get("name", {}).get("value")]
    check("every control has a name", not nameless, nameless)
    b.js("document.activeElement.blur()")
    seen = []
    for _ in range(6):
        b.key("Tab", 9)
        seen.append(b.js("document.activeElement.id || document.activeElement.tagName"))
    check("the keyboard reaches the controls", {"fresh", "open-settings", "log", "input"} <= set(seen), seen)


def keys(b):
    s = Server(args=("--api-key", "open sesame"))
    noted = len(b.errors)
    try:
        b.open(s.url)
        check("without a key the page says so", b.wait("/API key/.test(document.getElementById('state').textContent)"))
        say(b, "Hello?")
        check("and a message is refused in words", b.wait("/API key/.test(document.querySelector('[role=alert]')?.textContent ?? '')"))
        b.click("#open-settings")
        b.wait("document.getElementById('settings').open")
        b.js("document.getElementById('key').focus()")
        b.type("open sesame")
        b.click("#settings .go")
        check("with the key it is live", b.wait(LIVE, 10))
        b.js("document.getElementById('input').value = ''")
        say(b, "Hello!")
        b.wait(IDLE + " && (%s).length > 0" % TEXT, 60)
        check("and answers", len(b.js(TEXT)) > 0)
        b.open(s.url + "/?again")
        check("the key is kept in the tab", b.wait(LIVE, 10) and b.js("localStorage.length") == 0)
    finally:
        s.stop()
    check("a server that is gone is noticed", b.wait("/connection/.test(document.getElementById('state').textContent)", 15))
    say(b, "Anyone?")
    check("and a message says so", b.wait("/cannot be reached/.test(document.querySelector('[role=alert]')?.textContent ?? '')"))
    b.errors[noted:] = [e for e in b.errors[noted:] if " 401 " not in e and "ERR_CONNECTION" not in e]


def completions(b):
    """A model without a chat template: the page goes on with the text."""
    import h5py
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "plain.h5")
        shutil.copy(MODEL, path)
        with h5py.File(path, "r+") as f:
            names = []
            f.visit(lambda n: names.append(n) if n.endswith("chat_template") else None)
            for n in names:
                del f[n]
        s = Server(model=path)
        try:
            b.open(s.url)
            b.wait(LIVE)
            check("without a template the page completes", b.js("!chat") and "no chat template" in b.js("document.getElementById('how').textContent"))
            setting(b, "max", 40)
            say(b, "ROMEO:")
            b.wait(IDLE + " && (%s).length > 10" % TEXT, 60)
            check("and shows the text with its beginning", b.js(TEXT).startswith("ROMEO:") and len(b.js(TEXT)) > 10, b.js(TEXT))
            shot(b, "7-completion")
        finally:
            s.stop()


def main():
    if not CHROMIUM:
        print("SKIPPED: page: there is no chromium")
        sys.exit(1 if os.environ.get("MW_TEST_NO_SKIP") == "1" else 77)
    s, b = Server(np=2), None
    try:
        head = urllib.request.urlopen(s.url).headers
        check("the page may load nothing from elsewhere", "default-src 'none'" in (head.get("Content-Security-Policy") or ""), head)
        b = Browser(CHROMIUM)
        b.call("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
        conversation(b, s.url)
        looks(b, "a desktop")
        accessible(b)
        stopping(b)
        errors(b)
        dark(b)
        phone(b, s.url)
        outside = [u for u in b.requests if not u.startswith((s.url, "data:"))]
        check("nothing was asked of anybody else", not outside, outside)
        b.call("Emulation.setDeviceMetricsOverride", width=1280, height=800, deviceScaleFactor=1, mobile=False)
        keys(b)
        completions(b)
        check("nothing on the console", not b.errors, b.errors)
    finally:
        if b:
            b.close()
        s.stop()
    print("%d failures" % failures)
    sys.exit(failures != 0)


main()
