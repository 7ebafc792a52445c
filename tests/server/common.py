"""What the tests of the server share: a server to talk to, requests by hand, a tally."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

os.environ["MARLIN_BACKEND"] = "cpu"  # also where there are GPUs, which this many ranks would not find
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MPIRUN = os.path.join(ROOT, "launch", "mpirun")
PROMPT = "HAMLET:\nTo be, or not to be"
# A build that is many times slower, and keeps freed memory.
SANITIZED = "MW_SANITIZE:STRING=\n" not in open(os.path.join(sys.argv[1], "CMakeCache.txt")).read()
failures = 0


def check(name, ok, detail=""):
    global failures
    print("%-74s %s" % (name, "ok" if ok else "FAILED  " + str(detail)[:800]), flush=True)
    failures += not ok


def finish():
    print("%d failures" % failures)
    sys.exit(failures != 0)


class Server:
    """marlin-worker --listen on a free port; `with` ends it."""

    def __init__(self, build, model, np=1, args=(), want=0):
        self.np, self.want, self.told = np, want, False
        self.cmd = ([MPIRUN, "-np", str(np)] if np > 1 else []) + [
            os.path.join(build, "bin", "marlin-worker"), model, "--listen", "127.0.0.1:0", "--threads", "1"] + list(args)
        self.p = subprocess.Popen(self.cmd, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                  start_new_session=True)
        self.err, self.port, self.ready = "", None, threading.Event()
        self.reader = threading.Thread(target=self.read_err, daemon=True)
        self.reader.start()
        if not self.ready.wait(120) or self.port is None:
            self.kill()
            raise SystemExit("the server did not start: " + self.err)
        self.url = "http://127.0.0.1:%d" % self.port

    def read_err(self):
        for line in self.p.stderr:
            self.err += line.decode(errors="replace")
            m = re.search(r"serving .* on http://127\.0\.0\.1:(\d+)", self.err)
            if m and self.port is None:
                self.port = int(m.group(1))
                self.ready.set()
        self.ready.set()

    def __enter__(self):
        return self

    def __exit__(self, kind, *rest):
        self.terminate()
        code = self.wait(240)
        if kind is None and self.want is not None:
            check("the server ends with code %s" % self.want, code == self.want, "%s: %s" % (code, self.err[-2000:]))

    def terminate(self):
        if self.p.poll() is None and not self.told:
            self.p.send_signal(signal.SIGTERM)
        self.told = True

    def wait(self, seconds):
        try:
            code = self.p.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return None
        self.reader.join(5)
        return code

    def kill(self):
        try:
            os.killpg(self.p.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.p.wait()

    def ranks(self):
        """Process ids by rank."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                cmd = open("/proc/%s/cmdline" % pid, "rb").read().split(b"\0")
                env = open("/proc/%s/environ" % pid, "rb").read()
                session = os.getsid(int(pid))
            except (OSError, ProcessLookupError):
                continue
            rank = re.search(rb"(?:OMPI_COMM_WORLD_RANK|PMI_RANK)=(\d+)", env)
            if cmd[0].endswith(b"marlin-worker") and rank and self.is_ours(int(pid), session):
                found[int(rank.group(1))] = int(pid)
        return found if self.np > 1 else {0: self.p.pid}

    def is_ours(self, pid, session):
        while pid > 1:
            if pid == self.p.pid or session == self.p.pid:
                return True
            try:
                pid = int(open("/proc/%d/stat" % pid).read().rsplit(")", 1)[1].split()[1])
            except OSError:
                return False
        return False

    # ---- requests ----

    def request(self, method, path, body=None, headers=None, timeout=200):
        """status, headers, JSON or text"""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        h = dict(headers or {})
        if isinstance(body, (dict, list)):
            body = json.dumps(body)
        if body is not None:
            h.setdefault("Content-Type", "application/json")
        c.request(method, path, body, h)
        r = c.getresponse()
        data = r.read()
        c.close()
        try:
            return r.status, r.headers, json.loads(data)
        except ValueError:
            return r.status, r.headers, data.decode(errors="replace")

    def post(self, path, body, **kw):
        return self.request("POST", path, body, **kw)

    def get(self, path, **kw):
        return self.request("GET", path, **kw)

    def stats(self):
        return self.get("/stats")[2]

    def raw(self, data, timeout=20, shut=False):
        """Bytes in, bytes out until the server closes or falls silent."""
        s = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        try:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it has closed already; what it said is read below
        out = b""
        try:
            while True:
                piece = s.recv(65536)
                if not piece:
                    break
                out += piece
                if b"\r\n\r\n" in out:
                    s.settimeout(0.3)
        except OSError:
            pass
        s.close()
        return out

    def stream_socket(self, path, body, rcvbuf=None):
        s = socket.socket()
        if rcvbuf:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        s.settimeout(200)
        s.connect(("127.0.0.1", self.port))
        data = json.dumps(body).encode()
        s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" %
                  (path.encode(), len(data)) + data)
        return s

    def idle(self, seconds=20):
        """Waits until nothing runs; the figures then."""
        until = time.time() + seconds
        while True:
            s = self.stats()
            if (s["running"], s["waiting"]) == (0, 0) and s["kv_blocks_free"] == s["kv_blocks"]:
                return s
            if time.time() > until:
                return s
            time.sleep(0.05)


def events(text):
    """The data of server-sent events, decoded; "[DONE]" as it is."""
    out = []
    for block in text.replace("\r\n", "\n").split("\n\n"):
        if block.startswith("data: "):
            out.append(block[6:] if block[6:] == "[DONE]" else json.loads(block[6:]))
    return out
