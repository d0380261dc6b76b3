"""The graphs that every engine gets, and what each stage must write.

Knows no engine. A graph is a list of stages in topological order; `expected()` computes their outputs as tools/stage.rs
does, so that a run can be checked without trusting the engine that made it.
"""
from dataclasses import dataclass, field

SOURCE = "row 1\nrow 2\nrow 3\n"
RATES = ["0.001", "0.002", "0.005", "0.01"]


@dataclass
class Stage:
    name: str
    kind: str
    param: str
    inputs: list = field(default_factory=list)    # names of stages, in the order in which they are read
    reads_source: bool = False
    axes: dict = field(default_factory=dict)       # the coordinates of a node of a sweep


def fnv(data, value=0xCBF29CE484222325):
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def output_of(param, texts):
    value = fnv(param.encode() + b"\0")
    for text in texts:
        for line in text.splitlines():
            if not line.startswith("#"):
                value = fnv(line.encode() + b"\n", value)
    return f"{param} {value:016x}\n"


class Graph:
    """Stages by name; `edited` is the stage whose parameter `edit` changes, `root` reads the source file."""

    workload = "?"

    def __init__(self, edits=0):
        self.stages = {}
        self.edits = edits       # a project that is used again goes on counting: no value comes twice
        self.revision = 0
        self.root = self._add("dataset", "dataset", "v1", reads_source=True)

    def _add(self, name, kind, param, inputs=(), reads_source=False, **axes):
        self.stages[name] = Stage(name, kind, param, list(inputs), reads_source, axes)
        return name

    def edit(self):
        """Changes one value, to one that it never had."""
        self.edits += 1

    def touch(self):
        """Changes the bytes of the source file so that the stage that reads it writes what it wrote before."""
        self.edits += 1
        self.revision = self.edits

    def source(self):
        return SOURCE + (f"# revision {self.revision}\n" if self.revision else "")

    def __len__(self):
        return len(self.stages)

    def downstream(self, name):
        """Returns the names of a stage and all that depend on it."""
        hit = {name}
        for stage in self.stages.values():
            if any(name in hit for name in stage.inputs):
                hit.add(stage.name)
        return hit

    def expected(self):
        texts = {}
        for stage in self.stages.values():
            inputs = ([self.source()] if stage.reads_source else []) + [texts[name] for name in stage.inputs]
            texts[stage.name] = output_of(stage.param, inputs)
        return texts


class Sweep(Graph):
    """data -> seeds x 4 learning rates of sft -> grpo each -> eval each -> one report over all.

    The edit gives the last branch another learning rate: sft, grpo, eval and the report follow, 4 stages.
    """

    workload, title = "W1", "sweep"

    def __init__(self, size, edits=0):
        super().__init__(edits)
        evals = []
        self.seeds = max(1, round((size - 2) / (3 * len(RATES))))
        for idx, rate in enumerate(RATES):
            for seed in range(self.seeds):
                tag, axes = f"r{idx}_s{seed}", {"learning_rate": rate, "seed": str(seed)}
                sft = self._add(f"sft_{tag}", "sft", self._sft_param(axes), [self.root], **axes)
                grpo = self._add(f"grpo_{tag}", "grpo", "beta0.04", [sft], **axes)
                evals.append(self._add(f"eval_{tag}", "eval", "greedy", [grpo], **axes))
                self.last_branch = [sft, grpo, evals[-1]]
        self.edited = self.last_branch[0]
        self.final = self._add("report", "report", "md", evals)

    @staticmethod
    def _sft_param(axes):
        return f"lr{axes['learning_rate']}-seed{axes['seed']}"

    def edit(self):
        super().edit()
        for name in self.last_branch:
            # 0.01 becomes 0.0101, 0.0102 ... 0.0111: never a zero at the end, which a number would lose.
            self.stages[name].axes["learning_rate"] = f"{RATES[-1]}{self.edits // 9}{self.edits % 9 + 1}"
        self.stages[self.edited].param = self._sft_param(self.stages[self.edited].axes)


class Chain(Graph):
    """Each stage reads the one before. The edit changes the parameter of the last one: 1 stage."""

    workload, title = "W2", "chain"

    def __init__(self, size, edits=0):
        super().__init__(edits)
        last = self.root
        for idx in range(1, size):
            last = self._add(f"link_{idx}", "link", "p0", [last])
        self.edited = self.final = last

    def edit(self):
        super().edit()
        self.stages[self.edited].param = f"p{self.edits}"


WORKLOADS = {graph.workload: graph for graph in (Sweep, Chain)}
