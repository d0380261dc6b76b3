#!/usr/bin/env python3
"""Times `volvelle-torch bench` beside transformers and TRL on one model folder, in turns. See ../README.md.

    lm.py                                    every case on the CPU with 2 threads, with a random model of 29M parameters
    lm.py --model DIR --cases generate-8     one case on a model of yours
    lm.py --device cuda --dtype bfloat16     on a GPU
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

import report
import workload

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(1, str(HERE.parent / "engine"))
import run as engine  # noqa: E402  (the engine benchmark: what it says about the machine)

OURS, TRANSFORMERS, TRL = "volvelle-torch", "transformers", "trl"


def lanes(case):
    """The programs that take turns at a case."""
    return [OURS, TRANSFORMERS, TRL] if case["task"] == "grpo" else [OURS, TRANSFORMERS]


def command(lane, case, options):
    common = ["--model", options.model, "--device", options.device, "--dtype", options.dtype, "--num-threads",
              str(options.num_threads), "--warmup", str(options.warmup), "--repeats", str(options.repeats)]
    if lane == OURS:
        return [options.program, "bench", *common, *workload.arguments(case), "--json"]
    return [options.python, HERE / "peer.py", *common, "--case", case["name"], "--engine", lane]


def measure(lane, case, options):
    """Runs one program once; returns what it printed, with its peak memory."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.num_threads)}
    if options.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
    argv = list(map(str, command(lane, case, options)))
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as process:
        out, error = process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)} failed:\n{error[-2000:]}")
    return json.loads(out.strip().splitlines()[-1])


def agreement(ours, theirs):
    """Returns the share of equal greedy tokens, where both programs say theirs."""
    if "output_ids" not in ours or "output_ids" not in theirs:
        return None
    pairs = [(a, b) for left, right in zip(ours["output_ids"], theirs["output_ids"]) for a, b in zip(left, right)]
    return sum(a == b for a, b in pairs) / max(len(pairs), 1)


def run_case(case, options):
    """Lets every program do the case once a turn; returns its figures."""
    samples = {lane: [] for lane in lanes(case)}
    for turn in range(options.turns):
        for lane in samples:
            print(f"== {case['name']}, turn {turn + 1} of {options.turns}, {lane}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            samples[lane].append(measure(lane, case, options))
    figures = {}
    for lane, runs in samples.items():
        wall = [value for run in runs for value in run["seconds"]]
        cpu = [value for run in runs for value in run["cpu_seconds"]]
        figures[lane] = {"median": statistics.median(wall), "least": min(wall), "cpu_median": statistics.median(cpu),
                         "tokens_per_second": workload.num_tokens(case) / statistics.median(wall)}
    return {"case": case, "figures": figures, "agreement": agreement(samples[OURS][0], samples[TRANSFORMERS][0]),
            "load": os.getloadavg()[0]}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a model folder; default: one with random weights, made for the purpose")
    parser.add_argument("--cases", help=f"some of {','.join(workload.CASES)}")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=1, help="unmeasured repeats in each turn")
    parser.add_argument("--repeats", type=int, default=1, help="measured repeats in each turn")
    parser.add_argument("--program", default=ROOT / "target/release/volvelle-torch")
    parser.add_argument("--python", default=ROOT / "target/bench/tools/lm/bin/python", help="with torch and transformers")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "target/bench/lm")
    parser.add_argument("--report", type=pathlib.Path, default=ROOT / "target/bench/lm-results.md")
    options = parser.parse_args()
    names = options.cases.split(",") if options.cases else [
        name for name, case in workload.CASES.items() if options.device == "cuda" or not case.get("cuda_only")]
    unknown = [name for name in names if name not in workload.CASES]
    if unknown:
        parser.error(f"unknown cases {', '.join(unknown)}; known: {', '.join(workload.CASES)}")
    return options, [workload.case(name) for name in names]


def main():
    options, cases = arguments()
    options.scratch.mkdir(parents=True, exist_ok=True)
    if not options.model:
        options.model = str(options.scratch / "random-29m")
        if not pathlib.Path(options.model, "model.safetensors").exists():
            subprocess.run([options.python, HERE / "make_model.py", options.model], check=True, stdout=sys.stderr)
    options.limit = options.cold_limit = 0
    results = {"machine": engine.machine(options), "model": pathlib.Path(options.model).name, "device": options.device,
               "dtype": options.dtype, "num_threads": options.num_threads, "turns": options.turns,
               "done": [run_case(case, options) for case in cases]}
    (options.scratch / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    text = report.write(results)
    options.report.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
