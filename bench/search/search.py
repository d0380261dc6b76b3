#!/usr/bin/env python3
"""Simulations a minute of `astro.search` beside a plain loop over transformers' `generate` (peer.py), in turns. See ../README.md.

    search.py                                     a random model of 29M parameters, made-up problems
    search.py --model DIR --problems FILE         a model of yours, and problems of yours (JSON Lines: id, problem, answer)
"""
import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(1, str(HERE.parent / "engine"))
import run as engine  # noqa: E402  (the engine benchmark: what it says about the machine)

OURS, PEER = "volvelle", "transformers"
GOAL = 3.0
RUNTIME = {"num_problems": 0, "num_shards": 1, "shard_index": 0, "strategy": "mcts", "max_depth": 50, "c_puct": 1.0,
           "prior": "mean_logprob", "revisit_terminals": True, "leaves_per_round": 1, "virtual_loss": 1.0, "beam_width": 4,
           "min_value": 0.0, "max_tokens": 0, "max_seconds": 0, "stop_when": None, "temperature": 1.0, "top_p": 0.95, "top_k": 0,
           "seed": 0, "bf16": False, "truncated_steps": "keep", "max_active_problems": 512, "device": "cpu", "save_steps": 0,
           "save_seconds": 0, "max_concurrency": 1, "request_timeout": 0, "max_retries": 0}
NOTHING_SOLVED = "no search reached a correct answer"


def params(options):
    return {**RUNTIME, **{name: getattr(options, name) for name in
                          ("num_simulations", "num_candidates", "num_rollouts", "max_step_length", "max_completion_length",
                           "generation_batch_size")}}


def ours(options, scratch):
    """One stage as the engine starts it, with all that a process takes: loading, writing, ending."""
    for name in ("trees.jsonl", "events.jsonl"):
        (scratch / name).unlink(missing_ok=True)
    (scratch / "partial").mkdir(exist_ok=True)
    for path in (scratch / "partial").iterdir():
        path.unlink()
    request = {"contract": 1, "kind": "astro.search", "node": "search", "key": "bench", "seed": 0, "params": params(options),
               "inputs": {"policy": {"path": str(options.model)}, "problems": {"path": str(options.problems)}},
               "outputs": {"trees": str(scratch / "trees.jsonl")}, "partial": str(scratch / "partial"),
               "events": str(scratch / "events.jsonl"), "resources": {"cpu": options.num_threads}}
    (scratch / "request.json").write_text(json.dumps(request), encoding="utf-8")
    began = time.perf_counter()
    done = subprocess.run([options.program, "worker", scratch / "request.json"], check=False, stderr=subprocess.PIPE, text=True)
    seconds = time.perf_counter() - began
    events = [json.loads(line) for line in (scratch / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    # Random weights solve nothing: a stage ends with an error then, when its trees are written.
    if done.returncode and not any(NOTHING_SOLVED in event.get("message", "") for event in events):
        raise RuntimeError(f"the worker failed: {events[-3:]}\n{done.stderr[-2000:]}")
    with open(scratch / "trees.jsonl", encoding="utf-8") as lines:
        trees = [json.loads(line) for line in lines]
    reuse = next((event["value"] for event in events if event.get("name") == "reused_prompt_tokens"), None)
    return {"seconds": seconds, "simulations": sum(tree["num_simulations"] for tree in trees),
            "nodes": sum(len(tree["nodes"]) for tree in trees), "tokens": sum(tree["num_tokens"] for tree in trees), "reuse": reuse}


def peer(options, _):
    argv = [options.python, HERE / "peer.py", "--model", options.model, "--problems", options.problems, "--params",
            json.dumps(params(options)), "--num-threads", options.num_threads]
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.num_threads), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(list(map(str, argv)), capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"peer.py failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def prepare(options):
    """Makes the model and the problems that were not given."""
    if not options.model:
        options.model = options.scratch / "random-29m"
        if not (options.model / "model.safetensors").exists():
            make = [options.python, HERE.parent / "lm" / "make_model.py", options.model]
            subprocess.run(list(map(str, make)), check=True, stdout=sys.stderr)
        template = "{% for message in messages %}{{ message.content }} {% endfor %}"
        (options.model / "chat_template.jinja").write_text(template, encoding="utf-8")
    if not options.problems:
        options.problems = options.scratch / "problems.jsonl"
        text = lambda idx: " ".join(f"w{3 + (idx * 7919 + at * 104729) % 31000}" for at in range(options.prompt_length))  # noqa: E731
        lines = [json.dumps({"id": f"p{idx}", "problem": text(idx), "answer": "42"}) for idx in range(options.num_problems)]
    else:
        lines = pathlib.Path(options.problems).read_text(encoding="utf-8").splitlines()[:options.num_problems]
        options.problems = options.scratch / "problems.jsonl"
    options.problems.write_text("\n".join(lines) + "\n", encoding="utf-8")


def per_minute(run):
    return 60 * run["simulations"] / run["seconds"]


def report(options, runs, machine):
    """Returns the report, and the ratio of the medians."""
    rates = {lane: statistics.median(map(per_minute, runs[lane])) for lane in runs}
    ratio = rates[OURS] / rates[PEER]
    lines = ["# Search beside a plain loop", "",
             f"{machine['date']}, commit {machine['commit']}, {machine['cpu']}, {options.num_threads} threads; "
             f"`{pathlib.Path(options.model).name}`, {options.num_problems} problems, {options.num_simulations} simulations, "
             f"{options.num_candidates} candidates of up to {options.max_step_length} tokens, {options.num_rollouts} rollouts of up to "
             f"{options.max_completion_length}; medians of {options.turns} turns.", "",
             "| | simulations a minute | tokens a second | nodes | seconds | prompt tokens reused |", "|---|---|---|---|---|---|"]
    for lane, taken in runs.items():
        median = lambda name, taken=taken: statistics.median(run[name] for run in taken)  # noqa: E731
        tokens = statistics.median(run["tokens"] / run["seconds"] for run in taken)
        reuse = f"{100 * taken[-1]['reuse']:.1f} %" if taken[-1].get("reuse") is not None else "-"
        lines.append(f"| {lane} | {rates[lane]:.1f} | {tokens:,.0f} | {median('nodes'):.0f} | {median('seconds'):.1f} | {reuse} |")
    verdict = "met" if ratio >= GOAL else "**not met**"
    lines += ["", f"{ratio:.2f} times as many simulations a minute; the goal, {GOAL:.0f} times, is {verdict}."]
    return "\n".join(lines) + "\n", ratio


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, help="a model folder; default: one with random weights, made for the purpose")
    parser.add_argument("--problems", type=pathlib.Path, help="JSON Lines; default: made-up ones")
    parser.add_argument("--num-problems", type=int, default=8)
    parser.add_argument("--prompt-length", type=int, default=96, help="tokens of a made-up problem")
    parser.add_argument("--num-simulations", type=int, default=4)
    parser.add_argument("--num-candidates", type=int, default=8)
    parser.add_argument("--num-rollouts", type=int, default=4)
    parser.add_argument("--max-step-length", type=int, default=24)
    parser.add_argument("--max-completion-length", type=int, default=64)
    parser.add_argument("--generation-batch-size", type=int, default=256)
    parser.add_argument("--num-threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--program", default=ROOT / "target/release/volvelle-torch")
    parser.add_argument("--python", default=ROOT / "target/bench/tools/lm/bin/python", help="with torch and transformers")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "target/bench/search")
    parser.add_argument("--report", type=pathlib.Path, default=ROOT / "target/bench/search-results.md")
    return parser.parse_args()


def main():
    options = arguments()
    options.scratch.mkdir(parents=True, exist_ok=True)
    options.limit = options.cold_limit = 0
    prepare(options)
    runs = {OURS: [], PEER: []}
    for turn in range(options.turns):
        for lane, measure in ((OURS, ours), (PEER, peer)):
            runs[lane].append(measure(options, options.scratch))
            print(f"== turn {turn + 1} of {options.turns}, {lane}: {per_minute(runs[lane][-1]):.1f} simulations a minute, "
                  f"load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    text, _ = report(options, runs, engine.machine(options))
    options.report.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
