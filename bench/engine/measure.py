"""Measures engines on one graph, turn by turn, and checks after each command what really ran.

The engines take turns because times from different minutes say little on a machine that others use as well. Knows
adapters only through `adapters.base`; it decides nothing about how figures are shown.
"""
import collections
import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass, field

MEASUREMENTS = ["cold", "noop", "plan", "edit", "touch"]
MOST_TOUCHED = 1000        # build tools run everything again after a touch; larger sizes would show nothing new


@dataclass
class Limits:
    turns: int             # most runs of one measurement
    seconds: float         # for a command
    cold_seconds: float    # for a cold run


class Launcher:
    """Runs one command under tools/launch and reads what it cost and which stages ran."""

    def __init__(self, harness, folder):
        self.program = harness / "launch"
        self.result, self.output, self.log = folder / "result.json", folder / "output.txt", folder / "ran.log"
        # A surrounding make or volvelle must not reach into what is measured.
        self.env = {name: value for name, value in os.environ.items()
                    if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL") and not name.startswith("VOLVELLE_")}
        self.env.update(STAGE_LOG=str(self.log), NO_COLOR="1")

    def __call__(self, command, folder, seconds):
        for path in (self.result, self.output, self.log):
            path.unlink(missing_ok=True)
        subprocess.run([self.program, str(seconds), self.result, self.output, *map(str, command.argv)],
                       cwd=folder, env={**self.env, **command.env}, check=True)
        sample = json.loads(self.result.read_text(encoding="utf-8"))
        sample["load"] = os.getloadavg()[0]
        sample["text"] = self.output.read_text(encoding="utf-8", errors="replace")
        sample["ran"] = self.log.read_text(encoding="utf-8").split() if self.log.exists() else []
        return sample


def turns_for(wall, most):
    """Short commands are repeated more often: their times scatter more and cost less."""
    return max(1, min(most, 10 if wall < 0.5 else 5 if wall < 2 else 3 if wall < 10 else 2 if wall < 30 else 1))


def summary(samples):
    """Medians, and the least: the order of magnitude on an idle machine."""
    def median(key):
        return statistics.median(sample[key] for sample in samples)

    return {"runs": len(samples),
            "wall": median("wall"), "wall_least": min(sample["wall"] for sample in samples),
            "cpu": median("cpu"), "cpu_least": min(sample["cpu"] for sample in samples),
            "rss_mb": max(sample["rss_kib"] for sample in samples) * 1024 / 1e6,
            "load": max(sample["load"] for sample in samples)}


@dataclass
class Lane:
    """One engine on one graph, in a folder of its own."""

    adapter: object
    folder: object
    launch: Launcher
    limits: Limits
    samples: dict = field(default_factory=lambda: collections.defaultdict(list))
    record: dict = field(default_factory=dict)
    faults: list = field(default_factory=list)
    skipped: dict = field(default_factory=dict)      # measurement -> why
    stopped: bool = False

    @property
    def graph(self):
        return self.adapter.graph

    @property
    def _counter(self):
        return self.folder.with_suffix(".edits")

    def keep_count(self):
        """Notes how many edits the project has seen, for a later session that goes on with it."""
        self._counter.write_text(str(self.graph.edits), encoding="utf-8")

    def prepare(self, graph_of, reuse):
        """Writes the project; returns whether an earlier one with its state is used again."""
        found = reuse and self._counter.exists()
        if not found:
            shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.adapter.begin(self.folder, graph_of(int(self._counter.read_text(encoding="utf-8")) if found else 0))
        return found

    def wants(self, what, turn):
        if self.stopped or what in self.skipped:
            return False
        samples = self.samples[what]
        most = 3 if what in ("cold", "edit") else 2 if what == "touch" else self.limits.turns
        return turn == 0 or turn < turns_for(samples[0]["wall"], min(most, self.limits.turns))

    def time(self, what, command, want, check_outputs=True):
        """Runs a command, keeps its sample, and checks that exactly the stages in `want` ran, each once."""
        sample = self.launch(command, self.folder, self.limits.cold_seconds if what == "cold" else self.limits.seconds)
        self.samples[what].append(sample)
        fault = self.ending(sample) or self._wrong_stages(sample, want)
        if not fault and check_outputs and (wrong := self.adapter.wrong_outputs(self.graph.expected())):
            fault = f"{len(wrong)} outputs are wrong, such as {', '.join(wrong[:3])}"
        if fault:
            self.stop(f"{what}: {fault}")
        return sample

    def stop(self, fault):
        """Keeps what is wrong and takes no further measurement: they would be of something else."""
        self.faults.append(fault)
        self.stopped = True

    @staticmethod
    def ending(sample):
        """Returns how a command ended, if it did not end well."""
        if sample["timeout"]:
            return f"ended at the time limit, after {sample['wall']:.0f} s"
        if sample["exit"] != 0:
            return f"exit code {sample['exit']}: {sample['text'].strip()[-300:]}"
        return None

    def _wrong_stages(self, sample, want):
        ran = [self.adapter.stage_of(label) for label in sample["ran"]]
        if len(ran) == len(want) and set(ran) == want:
            return None
        missing, extra = sorted(want - set(ran))[:3], sorted(set(ran) - want)[:3]
        return (f"{len(ran)} stages ran, {len(set(ran))} different ones, and {len(want)} had to; "
                f"missing {missing}, too many {extra}")

    def finish(self):
        for what, samples in self.samples.items():
            if samples:
                self.record[what] = {**summary(samples), **self.record.get(what, {})}
        self.record.update(faults=self.faults, skipped=self.skipped)
        return self.record


def measure(lanes, graph_of, what, reuse):
    """Takes the measurements that are asked for; returns a record for each lane, by the engine's name."""
    _cold(lanes, graph_of, reuse)
    stateful = [lane for lane in lanes if not lane.adapter.cold_only]
    if "noop" in what:
        _turns(stateful, "noop", _noop)
    if "plan" in what:
        _turns([lane for lane in stateful if lane.adapter.plan()], "plan", _plan)
    if "edit" in what:
        _turns(stateful, "edit", _edit)
    if "touch" in what and stateful and len(stateful[0].graph) <= MOST_TOUCHED:
        _turns(stateful, "touch", _touch)
    return {lane.adapter.name: lane.finish() for lane in lanes}


def _turns(lanes, what, step):
    # What the phase before wrote must not be on its way to the disk while this one is timed.
    os.sync()
    print(f"   {what}", file=sys.stderr, flush=True)
    turn = 0
    while waiting := [lane for lane in lanes if lane.wants(what, turn)]:
        for lane in waiting if turn % 2 == 0 else reversed(waiting):
            step(lane, turn)
        turn += 1


def _cold(lanes, graph_of, reuse):
    for lane in lanes:
        found = lane.prepare(graph_of, reuse)
        lane.record["stages"] = len(lane.graph)
        most = lane.adapter.cold_most
        if found and not lane.adapter.cold_only:
            lane.skipped["cold"] = "the state of an earlier run was used again"
            # It was left after an edit; back to the graph as it began.
            settled = lane.launch(lane.adapter.run(), lane.folder, lane.limits.cold_seconds)
            if fault := lane.ending(settled):
                lane.stop(f"the run before the measurements: {fault}")
        elif most and len(lane.graph) > most:
            lane.skipped["cold"] = f"takes too long for more than {most} stages; its state was made by hand"
            lane.adapter.seed(lane.graph.expected())

    def cold(lane, turn):
        if turn > 0:
            lane.prepare(graph_of, reuse=False)
        lane.time("cold", lane.adapter.run(), set(lane.graph.stages))

    _turns(lanes, "cold", cold)
    for lane in lanes:
        lane.keep_count()


def _noop(lane, turn):
    lane.time("noop", lane.adapter.run(), set(), check_outputs=turn == 0)


def _plan(lane, turn):
    sample = lane.time("plan", lane.adapter.plan(), set(), check_outputs=False)
    lane.record["plan"] = {"says": lane.adapter.planned(sample["text"])}


def _edit(lane, _turn):
    lane.graph.edit()
    lane.keep_count()
    lane.adapter.update()
    want = lane.graph.downstream(lane.graph.edited)
    if lane.adapter.plan():
        sample = lane.time("plan_edit", lane.adapter.plan(), set(), check_outputs=False)
        lane.record["plan_edit"] = {"says": lane.adapter.planned(sample["text"])}
    if not lane.stopped:
        sample = lane.time("edit", lane.adapter.run(), want)
        lane.record["edit"] = {"ran": len(sample["ran"]), "expected": len(want)}


def _touch(lane, _turn):
    """The root runs again and writes the same bytes; whether anything else does is a finding, not a fault."""
    lane.graph.touch()
    lane.keep_count()
    lane.adapter.update()
    sample = lane.launch(lane.adapter.run(), lane.folder, lane.limits.seconds)
    lane.samples["touch"].append(sample)
    ran = {lane.adapter.stage_of(label) for label in sample["ran"]}
    if fault := lane.ending(sample) or (None if lane.graph.root in ran else "the root did not run"):
        lane.stop(f"touch: {fault}")
    lane.record["touch"] = {"downstream": len(ran) - 1}
