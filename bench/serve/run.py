#!/usr/bin/env python3
"""Puts `volvelle serve` under load, beside nginx that serves the very same files in the same minutes.

    bench/serve/run.py [--volvelle PROGRAM] [--seconds N] [--rounds N] [--clients N] [--report FILE]

The cache is made for it: records of a small sweep, files of 4 KiB and of 1 MiB. Each load runs against both servers in
turns, and the median of the rounds is told. The exit code is 1 if any answer was wrong or a connection broke.
"""

import argparse
import datetime
import hashlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BEGIN, END = "<!-- serve: written by bench/serve/run.py -->", "<!-- /serve -->"

PIPELINE = """volvelle: 1
name: bench
stages:
  point:
    uses: command
    matrix: { seed: [%s] }
    with: { run: "echo ${matrix.seed} > ${outputs.out}" }
    outputs: { out: text }
  small:
    uses: command
    with: { run: "mkdir ${outputs.out}; for i in $(seq %d); do head -c 4096 /dev/urandom > ${outputs.out}/$i; done" }
    outputs: { out: folder }
  large:
    uses: command
    with: { run: "mkdir ${outputs.out}; for i in $(seq %d); do head -c 1048576 /dev/urandom > ${outputs.out}/$i; done" }
    outputs: { out: folder }
"""

NGINX = """daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log; worker_processes auto;
user {user};
events {{ worker_connections 1024; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000; default_type application/octet-stream;
  client_body_temp_path {folder}/t1; proxy_temp_path {folder}/t2; fastcgi_temp_path {folder}/t3;
  uwsgi_temp_path {folder}/t4; scgi_temp_path {folder}/t5;
  server {{ listen 127.0.0.1:{port}; root {cache}; }}
}}
"""


def main():
    options = arguments()
    wrk = shutil.which("wrk")
    if not wrk:
        sys.exit("wrk is not installed; bench/serve/setup.sh installs it")
    with tempfile.TemporaryDirectory(prefix="volvelle-bench-serve-") as folder:
        folder = Path(folder)
        make_cache(options.volvelle, folder)
        # Its workers run as nobody where it is started by root.
        os.chmod(folder, 0o755)
        servers = [start_volvelle(options.volvelle, folder)]
        nginx = start_nginx(folder)
        servers += [nginx] if nginx else []
        try:
            results = measure(wrk, folder, servers, options)
        finally:
            for server in servers:
                server["process"].terminate()
                server["process"].wait()
    text = report(results, servers, options)
    print(text)
    if options.report:
        write_section(Path(options.report), text)
    if any(result["wrong"] or result["broken"] for rounds in results.values() for result in rounds):
        sys.exit("some answers were wrong, or connections broke")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volvelle", default=str(ROOT / "target/release/volvelle"))
    parser.add_argument("--seconds", type=int, default=5, help="of each load and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--report", help="a file whose section about serve is replaced")
    return parser.parse_args()


def make_cache(volvelle, folder):
    seeds = ", ".join(str(seed) for seed in range(200))
    (folder / "p.yaml").write_text(PIPELINE % (seeds, 2000, 64))
    subprocess.run([volvelle, "run", "p.yaml", "--cache", "cache"], cwd=folder, check=True, stdout=subprocess.DEVNULL)


def start_volvelle(volvelle, folder):
    token = run([volvelle, "token", "new", "bench", "--scope", "read", "--cache", "cache"], folder).strip()
    command = [volvelle, "serve", "--listen", "127.0.0.1:0", "--cache", "cache"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().split()[2].rstrip(",")
    return {"name": "volvelle serve", "url": url, "process": process, "token": token}


def start_nginx(folder):
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not program:
        print("nginx is not installed: no peer", file=sys.stderr)
        return None
    with __import__("socket").socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    user = "root" if os.geteuid() == 0 else "nobody"
    conf = folder / "nginx.conf"
    conf.write_text(NGINX.format(folder=folder, cache=folder / "cache", port=port, user=user))
    command = [program, "-p", str(folder), "-c", str(conf), "-e", str(folder / "nginx.log")]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    time.sleep(1)
    if process.poll() is not None:
        print("nginx did not start: no peer\n" + (folder / "nginx.log").read_text(), file=sys.stderr)
        return None
    return {"name": "nginx", "url": f"http://127.0.0.1:{port}", "process": process, "token": None}


def run(command, folder):
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


def loads(folder):
    """Returns the requests of each load, as (method, status, area, name)."""
    cache = folder / "cache"
    blobs = [(path.stat().st_size, path.parent.name + path.name) for path in (cache / "blobs").glob("??/*")]
    small = [("GET", 200, "blobs", name) for size, name in blobs if size == 4096]
    large = [("GET", 200, "blobs", name) for size, name in blobs if size == 1 << 20]
    records = [("GET", 200, "records", path.parent.name + path.name) for path in (cache / "records").glob("??/*")]
    absent = [hashlib.sha256(str(idx).encode()).hexdigest() for idx in range(2000)]
    misses = [("HEAD", 404, "blobs", name) for name in absent]
    # What a machine asks of a team's server: mostly records and small files, many misses, now and then weights.
    mixed = []
    for idx in range(20_000):
        kind = idx % 20
        source = records if kind < 8 else misses if kind < 12 else small if kind < 19 else large
        mixed.append(source[idx * 31 % len(source)])
    return {
        "GET record": records,
        "GET 4 KiB": small,
        "GET 1 MiB": large,
        "HEAD, a miss": misses,
        "mixed: 8 records, 4 misses, 7 of 4 KiB, 1 of 1 MiB": mixed,
    }


def path_for(server, area, name):
    # The file that `serve` finds by its name, nginx is told.
    return f"/v1/{area}/{name}" if server["token"] else f"/{area}/{name[:2]}/{name[2:]}"


def measure(wrk, folder, servers, options):
    results = {}
    for load, requests in loads(folder).items():
        for server in servers:
            lines = [f"{method} {status} {path_for(server, area, name)}" for method, status, area, name in requests]
            (folder / f"{server['name']}.list").write_text("\n".join(lines) + "\n")
        for _ in range(options.rounds):
            for server in servers:
                result = one(wrk, folder, server, options)
                results.setdefault((load, server["name"]), []).append(result)
    return results


def one(wrk, folder, server, options):
    command = [wrk, "-t2", f"-c{options.clients}", f"-d{options.seconds}s", "--timeout", "10s", "-s", str(HERE / "load.lua")]
    command += [server["url"], "--", str(folder / f"{server['name']}.list")]
    command += [server["token"]] if server["token"] else []
    cpu = cpu_seconds(server["process"].pid)
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in out.splitlines() if line.startswith("JSON "))
    result = json.loads(line[5:])
    result["cpu"] = cpu_seconds(server["process"].pid) - cpu
    result["rss"] = rss(server["process"].pid)
    return result


def family(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children")
    return [pid] + [int(child) for child in children.read_text().split()] if children.exists() else [pid]


def cpu_seconds(pid):
    ticks = 0
    for each in family(pid):
        fields = Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss(pid):
    """Returns the most memory that the processes of a server had so far, in MB."""
    total = 0
    for each in family(pid):
        for line in Path(f"/proc/{each}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                total += int(line.split()[1])
    return total / 1024


def median(rounds, key):
    return statistics.median(result[key] for result in rounds)


def report(results, servers, options):
    model = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), platform.machine())
    lines = [
        "# Serve benchmark",
        "",
        f"Written by `bench/serve/run.py`. {datetime.datetime.now():%Y-%m-%d %H:%M}, {model}, {os.cpu_count()} cores, "
        f"Linux {platform.release()}, load {os.getloadavg()[0]:.1f} at the end.",
        f"{options.clients} clients (wrk, keep-alive, on the same machine and cores), {options.seconds} s a load, median of "
        f"{options.rounds} rounds in turns. `volvelle serve` checks a bearer token on each request; nginx serves the same "
        "files from the same cache, without tokens or counting. Not measured: a network, TLS, a disk that has to be read "
        "(all files are in memory), uploads.",
        "",
        "| load | server | requests/s | MB/s | p50 ms | p99 ms | CPU µs per request | peak memory MB | wrong or broken |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    ratios = []
    for load in dict.fromkeys(load for load, _ in results):
        rates = []
        for server in servers:
            rounds = results[load, server["name"]]
            rate = statistics.median(r["requests"] / r["seconds"] for r in rounds)
            moved = statistics.median(r["bytes"] / r["seconds"] for r in rounds) / 1e6
            cpu = statistics.median(r["cpu"] / max(r["requests"], 1) for r in rounds) * 1e6
            faults = sum(r["wrong"] + r["broken"] for r in rounds)
            rates.append((rate, cpu))
            lines.append(
                f"| {load} | {server['name']} | {rate:,.0f} | {moved:,.0f} | {median(rounds, 'p50_ms'):.2f} | "
                f"{median(rounds, 'p99_ms'):.2f} | {cpu:.0f} | {max(r['rss'] for r in rounds):.0f} | {faults} |"
            )
        if len(rates) == 2:
            ratios.append(f"{load}: {rates[0][0] / rates[1][0]:.2f} of nginx's rate, {rates[0][1] / rates[1][1]:.1f} times its CPU")
    if ratios:
        lines += ["", "Beside nginx: " + "; ".join(ratios) + "."]
    return "\n".join(lines) + "\n"


def write_section(path, text):
    old = path.read_text() if path.exists() else ""
    section = f"{BEGIN}\n\n{text}\n{END}\n"
    if BEGIN in old and END in old:
        before, after = old.split(BEGIN)[0], old.split(END, 1)[1].lstrip("\n")
        path.write_text(before + section + after)
    else:
        path.write_text(old.rstrip("\n") + "\n\n" + section if old else section)


if __name__ == "__main__":
    main()
