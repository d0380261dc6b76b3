"""Volvelle, with the pipeline that a user would write: few stages and a matrix for the sweep, one stage a link for the
chain. Outputs lie in its cache, so they are looked at through `volvelle show`."""
import hashlib
import re
import subprocess

from graphs import RATES

from .base import Adapter, Command, write

CACHE = ["--cache", "cache"]

SWEEP = """\
volvelle: 1
name: sweep
stages:
  dataset:
    uses: command
    outputs: { out: text }
    with: { run: "./stage ${outputs.out} dataset v1 src/data.txt", files: [src/data.txt] }
  sft:
    uses: command
    needs: { data: dataset.out }
    matrix:
      learning_rate: [RATES]
      seed: [SEEDS]
EDIT\
    outputs: { out: text }
    with:
      run: "./stage ${outputs.out} sft/${matrix.learning_rate}/${matrix.seed}
        lr${matrix.learning_rate}-seed${matrix.seed} ${inputs.data}"
  grpo:
    uses: command
    needs: { model: sft.out }
    outputs: { out: text }
    with: { run: "./stage ${outputs.out} grpo/${matrix.learning_rate}/${matrix.seed} beta0.04 ${inputs.model}" }
  eval:
    uses: command
    needs: { model: grpo.out }
    outputs: { out: text }
    with: { run: "./stage ${outputs.out} eval/${matrix.learning_rate}/${matrix.seed} greedy ${inputs.model}" }
  report:
    uses: command
    needs: { evals: eval.out }
    gather: [learning_rate, seed]
    outputs: { out: text }
    with: { run: "./stage ${outputs.out} report md @request" }
"""

# One point of the grid gets another learning rate.
EDIT = """\
      exclude: [{ learning_rate: OLD, seed: LAST }]
      include: [{ learning_rate: NEW, seed: LAST }]
"""

CHAIN = """\
volvelle: 1
name: chain
stages:
  dataset:
    uses: command
    outputs: { out: text }
    with: { run: "./stage ${outputs.out} dataset v1 src/data.txt", files: [src/data.txt] }
"""

LINK = """\
  NAME:
    uses: command
    needs: { before: BEFORE.out }
    outputs: { out: text }
    with: { run: "./stage ${outputs.out} NAME PARAM ${inputs.before}" }
"""


class Volvelle(Adapter):
    name = "volvelle"
    note = "content digests, durable records; the sweep is five stages with a matrix"

    def __init__(self, options):
        super().__init__(options)
        self.binary = options.volvelle

    def program(self):
        return str(self.binary) if self.binary.exists() else None

    def version(self):
        return f"{super().version()} (program {hashlib.sha256(self.binary.read_bytes()).hexdigest()[:12]})"

    def generate(self):
        text = self._sweep() if self.graph.workload == "W1" else self._chain()
        write(self.folder / "pipeline.yaml", text)
        self._stages = {self._label(stage): stage.name for stage in self.graph.stages.values()}

    def _sweep(self):
        last = self.graph.seeds - 1
        rate = self.graph.stages[self.graph.edited].axes["learning_rate"]
        edit = EDIT.replace("OLD", RATES[-1]).replace("NEW", rate).replace("LAST", str(last))
        return (SWEEP.replace("RATES", ", ".join(RATES)).replace("SEEDS", ", ".join(map(str, range(last + 1))))
                .replace("EDIT", edit if rate != RATES[-1] else ""))

    def _chain(self):
        links = (LINK.replace("NAME", stage.name).replace("BEFORE", stage.inputs[0]).replace("PARAM", stage.param)
                 for stage in self.graph.stages.values() if stage.inputs)
        return CHAIN + "".join(links)

    @staticmethod
    def _label(stage):
        return "/".join([stage.kind, *stage.axes.values()]) if stage.axes else stage.name

    @staticmethod
    def _node(stage):
        coordinates = ",".join(f"{axis}={value}" for axis, value in stage.axes.items())
        return f"{stage.kind}[{coordinates}]" if coordinates else stage.name

    def stage_of(self, label):
        return self._stages.get(label, label)

    def run(self):
        return Command([self.program(), *CACHE, "run", "pipeline.yaml", "--jobs", str(self.jobs)])

    def plan(self):
        return Command([self.program(), *CACHE, "plan", "pipeline.yaml"])

    def planned(self, text):
        """Both what runs for certain and what runs unless it is cut off."""
        last = text.strip().rsplit("\n", 1)[-1]
        if "nothing to do" in last:
            return 0
        return sum(int(count) for count in re.findall(r"(\d+) (?:run|may run)\b", last)) or None

    def wrong_outputs(self, expected):
        """Looks at the last output, which depends on every byte of all others, and at the branch that is edited."""
        looked_at = {self.graph.root, self.graph.final, *self.graph.downstream(self.graph.edited)}
        return [name for name in sorted(looked_at) if self._output(name) != expected[name]]

    def _output(self, name):
        target = self._node(self.graph.stages[name]) + ".out"
        told = subprocess.run([self.program(), *CACHE, "show", "pipeline.yaml", target], cwd=self.folder,
                              capture_output=True, text=True, check=False)
        return told.stdout if told.returncode == 0 else None
