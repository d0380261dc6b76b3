#!/usr/bin/env python3
"""Times Volvelle on large graphs of trivial stages, beside other engines on the same graphs. See ../README.md.

    run.py                                        sizes 100 and 1,000: a few minutes
    run.py --full                                 100 to 100,000 nodes: about an hour
    run.py --graphs W1/10000 --peers volvelle     one size, one engine
"""
import argparse
import json
import os
import pathlib
import platform
import shutil
import statistics
import subprocess
import sys
import time

from adapters import ALL
from graphs import WORKLOADS
from measure import MEASUREMENTS, Lane, Launcher, Limits, measure
import report

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
TOOLS = ["launch", "stage", "floor"]

QUICK = ["W1/100", "W1/1000", "W2/1000"]
FULL = ["W1/100", "W1/1000", "W2/1000", "W1/10000", "W1/100000"]
# A few minutes have no room for these.
NOT_IN_QUICK = {"W1/1000": ["dvc"], "W2/1000": ["dvc", "snakemake"]}


def main():
    options = arguments()
    options.harness = build_harness(options.tools / "harness")
    names = [name for name in options.peers if ALL[name](options).program()]
    missing = [name for name in options.peers if name not in names]
    for name in missing:
        print(f"{name} is not installed: left out (see bench/engine/setup.sh)", file=sys.stderr)
    if "volvelle" in missing:
        sys.exit(f"{options.volvelle} is missing: run `make build`, or give another with --volvelle")
    results = {"machine": machine(options), "missing": missing, "engines": {}, "graphs": {}}
    for name in names:
        adapter = ALL[name](options)
        results["engines"][name] = {"version": adapter.version(), "jobs": adapter.jobs, "note": adapter.note}
    for graph in options.graphs:
        results["graphs"][graph] = measure_graph(graph, names, options, results)
        # After each, so that what is done is kept whatever becomes of the rest.
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        report.put(options.report, report.write(results))
        print(report.section(graph, results["graphs"][graph]), flush=True)
    print(report.goals(results), flush=True)
    print(f"report: {options.report}\nfigures: {options.json}", file=sys.stderr)
    ours = (graph["lanes"].get("volvelle", {}) for graph in results["graphs"].values())
    sys.exit(any(lane.get("faults") for lane in ours))


def measure_graph(graph, names, options, results):
    workload, size = graph.split("/")
    scratch = options.scratch / graph.replace("/", "-")
    if not options.keep:
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    launch = Launcher(options.harness, scratch)
    limits = Limits(options.turns, options.limit, options.cold_limit)
    lanes, left_out = [], {}
    for name in names:
        why = reason_to_skip(name, graph, options, results)
        if why:
            left_out[name] = why
        else:
            lanes.append(Lane(ALL[name](options), scratch / name, launch, limits))
    print(f"== {graph}: {', '.join(lane.adapter.name for lane in lanes)}", file=sys.stderr, flush=True)
    start = {"at": time.strftime("%Y-%m-%d %H:%M"), "load_before": os.getloadavg()[0], "fsync_ms": fsync_ms(scratch)}
    try:
        records = measure(lanes, lambda edits: WORKLOADS[workload](int(size), edits), options.measure, options.keep)
    finally:
        if not options.keep:
            shutil.rmtree(scratch, ignore_errors=True)
    return {**start, "load_after": os.getloadavg()[0], "lanes": records, "left_out": left_out}


def reason_to_skip(name, graph, options, results):
    """Foresees from a smaller size of the same workload, at best linearly, what would only run into the limit."""
    if name in NOT_IN_QUICK.get(graph, []) and options.quick:
        return "left out of the quick selection"
    workload, size = graph.split("/")
    for smaller, done in results["graphs"].items():
        other, smaller_size = smaller.split("/")
        lane = done["lanes"].get(name)
        if other != workload or int(smaller_size) >= int(size) or not lane or "noop" not in lane:
            continue
        for what, limit in (("noop", options.limit), ("cold", options.cold_limit)):
            foreseen = lane.get(what, {}).get("wall", 0) * int(size) / int(smaller_size)
            # Start-up does not grow; only what is far beyond it counts.
            if lane.get(what, {}).get("wall", 0) > 2 and foreseen > limit:
                return (f"{what} took {lane[what]['wall']:.0f} s at N = {lane['stages']:,}, so at least about "
                        f"{foreseen:.0f} s here, and the limit is {limit:.0f} s")
    return None


def build_harness(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOOLS:
        source, program = HERE / "tools" / f"{name}.rs", folder / name
        if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
            subprocess.run(["rustc", "-O", "--edition", "2024", "-o", program, source], check=True)
    return folder


def fsync_ms(folder):
    """Returns what one durable write costs here just now: the floor of every durable record."""
    path, times = folder / "fsync", []
    for _ in range(15):
        start = time.perf_counter()
        with open(path, "wb") as file:
            file.write(b"x")
            file.flush()
            os.fsync(file.fileno())
        times.append(time.perf_counter() - start)
    path.unlink()
    return round(statistics.median(times) * 1e3, 2)


def machine(options):
    def told(*argv):
        done = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=ROOT)
        return done.stdout.strip() or "unknown"

    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
    except OSError:
        model = platform.processor() or "unknown"
    options.scratch.mkdir(parents=True, exist_ok=True)
    return {"date": time.strftime("%Y-%m-%d %H:%M"), "cpu": model, "cores": len(os.sched_getaffinity(0)),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
            "kernel": f"{platform.system()} {platform.release()}",
            "filesystem": told("stat", "-f", "-c", "%T", str(options.scratch)),
            "python": platform.python_version(), "rustc": told("rustc", "--version"),
            "commit": told("git", "describe", "--always", "--dirty"),
            "limits": {"seconds": options.limit, "cold_seconds": options.cold_limit, "turns": options.turns}}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help=f"the graphs {', '.join(FULL)}")
    parser.add_argument("--graphs", help="others, as in W1/100,W2/1000")
    parser.add_argument("--peers", default=",".join(ALL), help=f"default: {','.join(ALL)}")
    parser.add_argument("--measure", default=",".join(MEASUREMENTS),
                        help=f"default: {','.join(MEASUREMENTS)}; the cold run is always made, except with --keep")
    parser.add_argument("--volvelle", type=pathlib.Path, default=ROOT / "target/release/volvelle")
    parser.add_argument("--tools", type=pathlib.Path, default=ROOT / "target/bench/tools")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "target/bench/scratch",
                        help="where projects and caches lie while they are measured; a disk, not memory")
    parser.add_argument("--keep", action="store_true", help="leave the projects, and begin from those that an earlier "
                        "--keep left, without a cold run")
    parser.add_argument("--turns", type=int, default=10, help="most runs of one measurement")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one command")
    parser.add_argument("--cold-limit", type=float, default=1800, help="seconds for one cold run")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "target/bench/results.json")
    parser.add_argument("--report", type=pathlib.Path, default=ROOT / "target/bench/results.md")
    options = parser.parse_args()
    options.quick = not options.full and not options.graphs
    options.graphs = options.graphs.split(",") if options.graphs else FULL if options.full else QUICK
    options.peers, options.measure = options.peers.split(","), options.measure.split(",")
    for graph in options.graphs:
        workload, _, size = graph.partition("/")
        if workload not in WORKLOADS or not size.isdigit() or int(size) < 2:
            parser.error(f"--graphs: {graph} is not like W1/1000; workloads: {', '.join(WORKLOADS)}")
    for given, known in ((options.peers, list(ALL)), (options.measure, MEASUREMENTS)):
        for name in set(given) - set(known):
            parser.error(f"unknown: {name}; known: {', '.join(known)}")
    options.volvelle, options.tools, options.scratch = (
        path.resolve() for path in (options.volvelle, options.tools, options.scratch))
    return options


if __name__ == "__main__":
    main()
