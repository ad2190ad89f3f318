"""A Tahoe-LAFS grid for the benchmark: grid DIR | put URL FILE | get URL CAP DEST | puts URL DIR COUNT.

The grid is an introducer, ten storage servers and a gateway, 3-of-10, on loopback; it ends with its driver."""
import json
import os
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request

SERVERS = 10


def port():
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def make(kind, folder, *more):
    number = port()
    line = ["tahoe", kind, "--port", f"tcp:{number}:interface=127.0.0.1", "--location", f"tcp:127.0.0.1:{number}"]
    subprocess.run([*line, *more, folder], check=True, stdout=subprocess.DEVNULL)


def grid(folder):
    os.makedirs(folder)
    running = []
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    def run(name):
        with open(f"{folder}/{name}.log", "wb") as log:
            line = ["tahoe", "run", "--allow-stdin-close", f"{folder}/{name}"]
            running.append(subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    try:
        make("create-introducer", f"{folder}/introducer")
        run("introducer")
        furl = f"{folder}/introducer/private/introducer.furl"
        while not os.path.exists(furl):
            time.sleep(0.05)
        furl = open(furl).read().strip()
        for place in range(SERVERS):
            make("create-node", f"{folder}/s{place}", "--introducer", furl, "--webport=none", "--nickname", f"s{place}")
            run(f"s{place}")
        web = port()
        shares = ["--shares-needed=3", "--shares-total=10", "--shares-happy=7"]
        client = ["tahoe", "create-client", "--introducer", furl, "--webport", f"tcp:{web}:interface=127.0.0.1"]
        subprocess.run([*client, *shares, f"{folder}/gateway"], check=True, stdout=subprocess.DEVNULL)
        run("gateway")
        url = f"http://127.0.0.1:{web}"
        until = time.time() + 120
        while connected(url) < SERVERS:
            if time.time() > until:
                sys.exit("the grid did not connect")
            time.sleep(0.2)
        with open(f"{folder}/pids", "w") as out:
            out.write(" ".join(str(process.pid) for process in running))
        print("ready", url, flush=True)
        while True:
            time.sleep(3600)
    finally:
        for process in running:
            process.kill()
        for process in running:
            process.wait()


def connected(url):
    try:
        servers = json.load(urllib.request.urlopen(f"{url}/?t=json", timeout=5))["servers"]
    except OSError:
        return 0
    states = [server.get("connection_status", "") for server in servers]
    return sum("onnected" in state and "not" not in state for state in states)


def upload(url, path):
    with open(path, "rb") as data:
        size = str(os.path.getsize(path))
        request = urllib.request.Request(f"{url}/uri", data=data, method="PUT", headers={"Content-Length": size})
        return urllib.request.urlopen(request, timeout=900).read().decode()


def put(url, path):
    print(upload(url, path), flush=True)


def get(url, cap, dest):
    with urllib.request.urlopen(f"{url}/uri/{urllib.parse.quote(cap, safe='')}", timeout=900) as data, open(dest, "wb") as out:
        while block := data.read(1 << 20):
            out.write(block)


def puts(url, folder, count):
    from concurrent.futures import ThreadPoolExecutor

    files = [os.path.join(top, name) for top, _, names in os.walk(folder) for name in names]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: upload(url, path), files[: int(count)]))


{"grid": grid, "put": put, "get": get, "puts": puts}[sys.argv[1]](*sys.argv[2:])
