"""Turns the figures of lm.py into the report: the goals first, then the figures of each case. Pure."""
OURS, TRANSFORMERS, TRL = "volvelle-torch", "transformers", "trl"

# At least so many times faster than the peer, on a CPU with 2 threads.
CPU_GOALS = {"generate-1": (TRANSFORMERS, 1.3), "generate-8": (TRANSFORMERS, 2.0), "generate-32": (TRANSFORMERS, 2.0),
             "shared-prefix": (TRANSFORMERS, 3.0), "sft": (TRANSFORMERS, 1.1), "grpo": (TRL, 2.0)}
CUDA_GOALS = {"generate-256": (TRANSFORMERS, 5.0)}

NOT_MEASURED = """Not measured: vLLM and llama.cpp (the peers are what one writes with transformers and TRL), prompts that a prefix cache
would find from before, long contexts. Each turn is a process of its own, with one repeat that is not measured."""


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head),
            *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def ratio(figures, peer):
    """Returns how many times faster than `peer` ours is, by wall time."""
    return figures[peer]["median"] / figures[OURS]["median"]


def goals(results):
    """Returns rows of goal, what was measured, and whether it is met."""
    known = CPU_GOALS if results["device"] == "cpu" else CUDA_GOALS
    rows = []
    for done in results["done"]:
        name = done["case"]["name"]
        if name in known:
            peer, least = known[name]
            measured = ratio(done["figures"], peer)
            rows.append([f"{name}: at least {least} times as fast as {peer}", f"{measured:.2f} times",
                         "met" if measured >= least else "**not met**"])
    return rows


def told(case):
    """Says what a case is."""
    spread = ", an eighth of it to all of it" if case["unequal"] else ""
    lengths = f"prompts of {case['prompt_length']} tokens{spread}"
    new = f"{case['max_new_tokens']} new ones{spread}"
    if case["task"] == "sft":
        return f"one step on {case['batch_size']} sequences of {case['prompt_length']} tokens, all of them labels"
    if case["task"] == "grpo":
        groups = case["batch_size"] // case["num_generations"]
        return f"one step: {groups} prompts x {case['num_generations']} completions, {lengths}, {new}, one update"
    if case["shared"]:
        return f"{case['batch_size']} samples of one prompt of {case['prompt_length']} tokens, {new}"
    return f"{case['batch_size']} x {lengths}, {new}, greedy"


def write(results):
    """Returns the whole report."""
    machine = results["machine"]
    lines = ["# Model benchmark", "", "Written by `bench/lm/lm.py`; [../README.md](../README.md) says what the figures mean.", "",
             f"- {machine['date']}, commit {machine['commit']}; {machine['cpu']}, {machine['cores']} cores, "
             f"{machine['memory_gb']} GB, {machine['kernel']}",
             f"- model {results['model']}, {results['device']}, {results['dtype']}, {results['num_threads']} threads, "
             f"{results['turns']} turns", ""]
    rows = goals(results)
    if rows:
        lines += ["## Goals", "", *table(["goal", "measured", "verdict"], rows)]
    for done in results["done"]:
        lines += [f"## {done['case']['name']}", "", told(done["case"]) + f". Load {done['load']:.1f}.", ""]
        lines += table(["program", "seconds, median (least)", "CPU seconds", "tokens/s", "ours is faster by"],
                       [[lane, f"{figures['median']:.2f} ({figures['least']:.2f})", f"{figures['cpu_median']:.2f}",
                         f"{figures['tokens_per_second']:,.0f}",
                         "" if lane == OURS else f"{ratio(done['figures'], lane):.2f}"]
                        for lane, figures in done["figures"].items()])
        if done["agreement"] is not None:
            lines += [f"Equal greedy tokens: {done['agreement']:.1%}.", ""]
    return "\n".join([*lines, NOT_MEASURED, ""])
