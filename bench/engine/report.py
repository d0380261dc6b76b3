#!/usr/bin/env python3
"""Turns the figures of run.py into the report: the goals first, then a table for each graph.

    report.py target/bench/results.json [REPORT.md]

Pure but for reading and writing the two files; it measures nothing.
"""
import json
import pathlib
import sys

from graphs import WORKLOADS

COLUMNS = {"cold": "cold run", "noop": "no-op run", "plan": "plan", "edit": "run after one value",
           "plan_edit": "plan before it"}
# So few stages say nothing about goals: what is timed is how the programs start.
FEW = 500
PEERS_OF_EXPERIMENTS = ["dvc", "snakemake"]


def seconds(value):
    for unit, factor in (("ms", 1e3), ("s", 1)):
        if value * factor < 1000 or unit == "s":
            figure = value * factor
            return f"{figure:.{1 if figure < 10 else 0}f} {unit}"


def cell(figures):
    if not figures or "wall" not in figures:
        return "-"
    return f"{seconds(figures['wall'])} ({seconds(figures['wall_least'])}), CPU {seconds(figures['cpu'])}"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head),
            *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def own_ms(lane, floor):
    """Returns what an engine itself costs for each stage that runs, in ms of wall and of CPU time.

    The floor is what the same commands cost in the same minutes without an engine.
    """
    if not lane or not floor or "cold" not in lane or "cold" not in floor:
        return None
    return tuple((lane["cold"][key] - floor["cold"][key]) / lane["stages"] * 1e3 for key in ("wall", "cpu"))


def peak_mb(lane):
    """Returns the greatest memory of a process in any measurement."""
    return max((figures["rss_mb"] for figures in lane.values()
                if isinstance(figures, dict) and "rss_mb" in figures), default=None)


def section(graph, done):
    """Returns the part of the report about one graph."""
    workload, _ = graph.split("/")
    lanes = done["lanes"]
    stages = next((lane["stages"] for lane in lanes.values() if "stages" in lane), 0)
    lines = [f"## {workload}, {WORKLOADS[workload].title} of {stages:,} nodes", "",
             f"{done['at']}; load {done['load_before']:.1f} before, {done['load_after']:.1f} after; a small durable "
             f"write takes {done['fsync_ms']} ms. Wall time median (least), CPU time median with children.", ""]
    rows = []
    for name, lane in lanes.items():
        edit, touch, peak = lane.get("edit", {}), lane.get("touch"), peak_mb(lane)
        ran = f"{edit['ran']} of {edit['expected']}" if "ran" in edit else "-"
        rows.append([name, *(cell(lane.get(what)) for what in COLUMNS), ran,
                     touch["downstream"] if touch else "-", f"{peak:.1f}" if peak and name != "floor" else "-"])
    lines += table(["engine", *COLUMNS.values(), "stages rerun", "rerun after same bytes", "peak MB"], rows)
    lines += _ratios(lanes)
    says = [f"{name} {lane['plan_edit']['says']}" for name, lane in lanes.items()
            if lane.get("plan_edit", {}).get("says") is not None]
    if says:
        lines += ["Stages that the plan before the edited run names: " + ", ".join(says) + ".", ""]
    notes = [f"- {name}: {why}" for name, why in done["left_out"].items()]
    for name, lane in lanes.items():
        notes += [f"- {name}, {what}: {why}" for what, why in lane["skipped"].items()]
        notes += [f"- FAULT {name}: {' '.join(fault.split())}" for fault in lane["faults"]]
    return "\n".join(lines + (["Not measured, and faults:", "", *notes, ""] if notes else []))


def _ratios(lanes):
    """What each engine takes in units of ninja's time, and its own cost per executed stage."""
    ninja, floor = lanes.get("ninja"), lanes.get("floor")
    rows = []
    for name, lane in lanes.items():
        if name == "floor":
            continue
        own = own_ms(lane, floor)
        rows.append([name, *(_ratio(lane.get(what), ninja and ninja.get(what)) for what in COLUMNS),
                     f"{own[0]:.2f} wall, {own[1]:.2f} CPU" if own else "-"])
    if not rows or (not ninja and not floor):
        return []
    return table(["times ninja: wall / CPU", *COLUMNS.values(), "engine's own ms per executed stage"], rows)


def _ratio(ours, theirs):
    if not ours or not theirs or "wall" not in ours or "wall" not in theirs:
        return "-"
    return f"{ours['wall'] / theirs['wall']:.2f} / {ours['cpu'] / max(theirs['cpu'], 1e-4):.2f}"


# -- goals: each returns rows of (goal, what was measured, whether it is met; None where it was not measured)

def goals(results):
    """Returns the table of goals, met or not."""
    lanes_of_sweeps = [graph["lanes"] for key, graph in results["graphs"].items() if key.startswith("W1/")]
    sweeps = sorted(((lanes["volvelle"]["stages"], lanes) for lanes in lanes_of_sweeps if "volvelle" in lanes),
                    key=lambda pair: pair[0])
    at_10k = next((lanes for stages, lanes in sweeps if 9_000 < stages < 11_000), None)
    at_100k = next((lanes for stages, lanes in sweeps if 90_000 < stages < 110_000), None)
    rows = [_beside_ninja(at_10k), *(_beside(peer, sweeps) for peer in PEERS_OF_EXPERIMENTS),
            _no_op_of_100k(at_100k), _memory(at_100k),
            *(_own_cost(stages, lanes) for stages, lanes in sweeps if stages > FEW)]
    shown = {True: "met", False: "**not met**", None: "not measured"}
    return "\n".join(["## Goals", "", *table(["goal", "measured", "verdict"],
                                             [[goal, told, shown[met]] for goal, told, met in rows])])


def _noop(lanes, name):
    figures = (lanes or {}).get(name, {}).get("noop")
    return figures if figures and not lanes[name]["faults"] else None


def _beside_ninja(lanes):
    goal = "no-op run of 10,000 nodes: at most 1.5 times ninja's wall time"
    ours, theirs = _noop(lanes, "volvelle"), _noop(lanes, "ninja")
    if not ours or not theirs:
        return goal, "-", None
    ratio = ours["wall"] / theirs["wall"]
    return goal, f"{ratio:.2f} times (CPU {ours['cpu'] / theirs['cpu']:.2f} times)", ratio <= 1.5


def _beside(peer, sweeps):
    """At 10,000 nodes, or at 1,000 where the other can't do more."""
    goal = f"no-op run of 10,000 nodes: at least 100 times faster than {peer}'s"
    for stages, lanes in reversed([pair for pair in sweeps if FEW < pair[0] < 11_000]):
        ours, theirs = _noop(lanes, "volvelle"), _noop(lanes, peer)
        if ours and theirs:
            times = theirs["wall"] / ours["wall"]
            where = "" if stages > 9_000 else f", at {stages:,} nodes: more are over its limit or were not asked for"
            return goal, f"{times:,.0f} times (CPU {theirs['cpu'] / ours['cpu']:,.0f} times){where}", times >= 100
    return goal, "-", None


def _no_op_of_100k(lanes):
    goal, ours = "no-op run of 100,000 nodes: under 1.5 s", _noop(lanes, "volvelle")
    return (goal, seconds(ours["wall"]), ours["wall"] < 1.5) if ours else (goal, "-", None)


def _memory(lanes):
    goal = "peak memory with 100,000 nodes: under 100 MB"
    lane = (lanes or {}).get("volvelle", {})
    measured = {what: figures["rss_mb"] for what, figures in lane.items()
                if isinstance(figures, dict) and "rss_mb" in figures}
    if not measured or lane["faults"]:
        return goal, "-", None
    told = ", ".join(f"{COLUMNS.get(what, what)} {value:.0f} MB" for what, value in measured.items())
    return goal, told, max(measured.values()) < 100


def _own_cost(stages, lanes):
    goal = f"cold run of {stages:,} nodes: the engine's own cost under 3 ms for each, its durable record included"
    own = own_ms(lanes.get("volvelle"), lanes.get("floor")) if not lanes["volvelle"]["faults"] else None
    if not own:
        return goal, "-", None
    ninja = own_ms(lanes.get("ninja"), lanes.get("floor"))
    beside = f" (ninja, without one: {ninja[0]:.2f} and {ninja[1]:.2f})" if ninja else ""
    return goal, f"{own[0]:.2f} ms wall, {own[1]:.2f} ms CPU{beside}", max(own) < 3


def write(results):
    """Returns the whole report."""
    machine, limits = results["machine"], results["machine"]["limits"]
    in_memory = " (**memory: durable writes cost nothing there**)" if machine["filesystem"] == "tmpfs" else ""
    lines = ["# Engine benchmark", "",
             "Written by `bench/engine/run.py`; [README.md](README.md) says what the figures mean.", "",
             f"- {machine['date']}, commit {machine['commit']}; {machine['rustc']}, Python {machine['python']}",
             f"- {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, {machine['kernel']}, "
             f"scratch on {machine['filesystem']}{in_memory}",
             f"- limits: {limits['seconds']:.0f} s for a command, {limits['cold_seconds']:.0f} s for a cold run; "
             f"at most {limits['turns']} runs of each, in turns", ""]
    if results["missing"]:
        lines += [f"Not installed: {', '.join(results['missing'])}.", ""]
    lines += [goals(results)]
    lines += [section(graph, done) for graph, done in results["graphs"].items()]
    rows = [[name, told["version"], told["jobs"], told["note"]] for name, told in results["engines"].items()]
    lines += ["## Engines", "", *table(["engine", "version", "stages at once", "note"], rows)]
    return "\n".join(lines)


def put(path, text):
    """Writes a report, and leaves the section alone that bench/store has put at the end of it."""
    _, heading, rest = (path.read_text(encoding="utf-8") if path.exists() else "").partition("# Store benchmark")
    path.write_text("\n".join(filter(None, [text, heading + rest])), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    text = write(json.loads(pathlib.Path(sys.argv[1]).read_text(encoding="utf-8")))
    if len(sys.argv) == 3:
        put(pathlib.Path(sys.argv[2]), text)
    else:
        print(text)
