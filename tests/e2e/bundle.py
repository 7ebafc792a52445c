"""bundle.py BUILD_DIR DEMO_MODEL: makes a bundle, moves it, and runs it with an empty environment as one rank and as two.
Whatever its programs load, at start or later, must come from the bundle, but for libc and what belongs to it: the dynamic
linker's own account (LD_DEBUG=files) of every process is read."""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

build, demo = sys.argv[1:3]
source = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LIBC = re.compile(r"(ld-linux[^/]*|lib(c|m|dl|rt|pthread|resolv|util|anl|mvec|nsl|nss_[a-z]+))\.so(\.\d+)*$")
PROMPT = ["-p", "HAMLET:\nTo be, or not to be", "--max-tokens", "8", "--ctx", "64", "--quiet", "--backend", "cpu"]


def fail(text):
    print("FAILED:", text)
    sys.exit(1)


def run(cmd, env=None, cwd="/"):
    r = subprocess.run(cmd, env=env, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    if r.returncode:
        fail(f"{' '.join(cmd)}: code {r.returncode}\n{r.stdout}{r.stderr}")
    return r.stdout


def images(folder):
    """What each program that ran has loaded: a process is several programs, one after the other, when it calls exec."""
    for name in glob.glob(folder + "/ld.*"):
        loaded = []
        for line in open(name, errors="replace"):
            m = re.search(r"calling init: (\S+)", line)
            if not m:
                continue
            if "/ld-linux" in m[1] and loaded:
                yield loaded
                loaded = []
            loaded.append(os.path.realpath(m[1]))
        yield loaded


def main():
    work = tempfile.mkdtemp(prefix="mw_bundle_")
    try:
        first, home, log = work + "/first", work + "/moved/here", work + "/log"
        run([source + "/launch/bundle", build, first])
        os.makedirs(work + "/moved")
        os.makedirs(log)
        shutil.move(first, home)
        for path in glob.glob(home + "/**", recursive=True):
            if os.path.islink(path) and not os.path.exists(path):
                fail(f"{path} leads nowhere")
        terms = open(home + "/share/licences/LIST").read()
        if "libhdf5" not in terms or "terms: its vendor's" in terms:
            fail("licences of the libraries are missing:\n" + terms)
        for path in ("BUNDLE", "LICENSE", "README.md", "docs/CLUSTER.md", "launch/slurm.sbatch"):
            if not os.path.exists(f"{home}/{path}"):
                fail(f"{path} is not in the bundle")

        want = run([build + "/bin/marlin-worker", demo] + PROMPT)
        env = {"PATH": "/usr/bin:/bin", "LD_DEBUG": "files", "LD_DEBUG_OUTPUT": log + "/ld"}
        model = home + "/share/marlin-worker/" + os.path.basename(demo)
        worker = home + "/bin/marlin-worker"
        for cmd in ([worker, model], [home + "/bin/marlin-mpirun", "-np", "2", worker, model],
                    ["../moved/here/bin/marlin-mpirun", "-np", "2", worker, model]):
            got = run(cmd + PROMPT, env, log)
            if got != want:
                fail(f"{' '.join(cmd)}: {got!r}, expected {want!r}")
        run([home + "/bin/marlin-pack", model, "--verify"], {"PATH": "/usr/bin:/bin"})

        ours = plugins = 0
        for loaded in images(log):
            if not any(p.startswith(os.path.realpath(home) + "/lib") for p in loaded):
                continue  # the shell, coreutils
            ours += 1
            plugins += sum("/lib/openmpi/" in p for p in loaded)
            outside = [p for p in loaded if not p.startswith(os.path.realpath(home)) and not LIBC.search(p)]
            if outside:
                fail("loaded from outside the bundle: " + ", ".join(sorted(set(outside))))
        if ours < 7 or plugins < 20:  # one worker; twice a launcher and two workers
            fail(f"only {ours} programs of the bundle and {plugins} plug-ins of Open MPI were seen")
        print(f"bundled, moved, run: {ours} programs, {plugins} plug-ins, nothing else but libc")
    finally:
        shutil.rmtree(work, ignore_errors=True)


main()
