#!/usr/bin/env python3
"""Times a run and a plan in which nothing changed, beside ninja on the same graph in the same minutes.

    python3 bench/noop.py [--stages 100,1000] [--reps 10] [--volvelle target/release/volvelle] [--ninja NINJA] [--json FILE]

The graph is a sweep: a data set, branches of sft -> grpo -> eval, one report over all. Each stage is one short shell
command, so that what is left is the engine's own cost. See README.md here for what the figures mean.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent


def graph(num_stages):
    """Returns [(name, [names of inputs])] in topological order, `num_stages` of them."""
    if num_stages < 5:
        sys.exit(f"--stages {num_stages}: at least 5 are needed")
    stages, ends = [("dataset", [])], []
    for branch in range((num_stages - 2) // 3):
        stages += [(f"sft-{branch}", ["dataset"]), (f"grpo-{branch}", [f"sft-{branch}"]),
                   (f"eval-{branch}", [f"grpo-{branch}"])]
        ends.append(f"eval-{branch}")
    for extra in range(num_stages - 1 - len(stages)):
        stages.append((f"second-eval-{extra}", [f"grpo-{extra}"]))
        ends.append(f"second-eval-{extra}")
    stages.append(("report", ends))
    return stages


def write_pipeline(path, stages):
    lines = ["volvelle: 1", "name: noop", "stages:"]
    for name, inputs in stages:
        words = " ".join(f"${{inputs.in{i}}}" for i in range(len(inputs)))
        lines += [f"  {name}:", "    uses: command",
                  f"    with: {{ run: 'cat {words} /dev/null > ${{outputs.out}}; echo {name} >> ${{outputs.out}}' }}",
                  "    outputs: { out: text }"]
        if inputs:
            lines.append("    needs: { " + ", ".join(f"in{i}: {n}.out" for i, n in enumerate(inputs)) + " }")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_ninja(path, stages):
    lines = ["rule stage", "  command = cat $in /dev/null > $out; echo $name >> $out"]
    for name, inputs in stages:
        lines += [f"build {name}.txt: stage " + " ".join(f"{n}.txt" for n in inputs), f"  name = {name}"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def timed(argv, cwd):
    """Runs a command to its end; returns (wall, CPU with children) in milliseconds and what it printed."""
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        process = subprocess.Popen(argv, cwd=cwd, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
    if process.returncode != 0:
        sys.exit(f"{' '.join(map(str, argv))} ended with {process.returncode}:\n{text[-2000:]}")
    return wall * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3, text


def last_event(text):
    for line in reversed(text.splitlines()):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if event.get("event") == "run_finished":
            return event
    sys.exit(f"no run_finished event in:\n{text[-2000:]}")


def measure(num_stages, args, folder):
    stages = graph(num_stages)
    ours, theirs = folder / "ours", folder / "ninja"
    ours.mkdir()
    theirs.mkdir()
    write_pipeline(ours / "noop.yaml", stages)
    write_ninja(theirs / "build.ninja", stages)
    volvelle = [args.volvelle, "--cache", ours / "cache"]

    cold_wall, _, text = timed([*volvelle, "run", "noop.yaml", "--json"], ours)
    executed = last_event(text)["executed"]
    if executed != num_stages:
        sys.exit(f"the first run executed {executed} of {num_stages} stages")
    noop = last_event(timed([*volvelle, "run", "noop.yaml", "--json"], ours)[2])
    if noop["executed"] != 0 or noop["cached"] != num_stages:
        sys.exit(f"the second run was not a no-op: {noop}")
    commands = {"volvelle run": ([*volvelle, "run", "noop.yaml"], ours),
                "volvelle plan": ([*volvelle, "plan", "noop.yaml"], ours)}
    cold = {"volvelle": cold_wall}
    if args.ninja:
        cold["ninja"] = timed([args.ninja], theirs)[0]
        commands["ninja"] = ([args.ninja], theirs)
    # Interleaved, so that what else the machine does falls on all alike.
    times = {name: [] for name in commands}
    for _ in range(args.reps):
        for name, (argv, cwd) in commands.items():
            times[name].append(timed(argv, cwd)[:2])
    medians = {name: {"wall_ms": statistics.median(w for w, _ in list_), "cpu_ms": statistics.median(c for _, c in list_),
                      "wall_min_ms": min(w for w, _ in list_)} for name, list_ in times.items()}
    return {"stages": num_stages, "reps": args.reps, "load": os.getloadavg()[0], "cold_wall_ms": cold, "noop": medians}


def show(result):
    print(f"{result['stages']} stages, nothing changed, median of {result['reps']} (load {result['load']:.1f}); "
          + ", ".join(f"first run of {name} {ms / 1e3:.2f} s" for name, ms in result["cold_wall_ms"].items()))
    base = result["noop"].get("ninja")
    for name, m in result["noop"].items():
        ratio = f"   {m['wall_ms'] / base['wall_ms']:5.1f} x ninja (CPU {m['cpu_ms'] / base['cpu_ms']:.1f} x)" if base else ""
        print(f"  {name:14} wall {m['wall_ms']:8.1f} ms   CPU {m['cpu_ms']:8.1f} ms   least {m['wall_min_ms']:8.1f} ms{ratio}")


def main():
    ap = argparse.ArgumentParser(description="time no-op runs and plans beside ninja")
    ap.add_argument("--stages", default="100,1000", help="sizes of the graph (default 100,1000)")
    ap.add_argument("--reps", type=int, default=10)
    ap.add_argument("--volvelle", default=ROOT / "target/release/volvelle")
    ap.add_argument("--ninja", default=shutil.which("ninja"), help="pip install ninja; without it there is no ratio")
    ap.add_argument("--json", type=pathlib.Path, help="also write the figures there")
    args = ap.parse_args()
    args.volvelle = pathlib.Path(args.volvelle).resolve()
    if not args.volvelle.exists():
        sys.exit(f"{args.volvelle} is missing; run `make build`")
    if not args.ninja:
        print("ninja is not installed (pip install ninja): no ratios", file=sys.stderr)
    results = []
    for size in args.stages.split(","):
        with tempfile.TemporaryDirectory(prefix="volvelle-bench-") as folder:
            results.append(measure(int(size), args, pathlib.Path(folder)))
        show(results[-1])
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
