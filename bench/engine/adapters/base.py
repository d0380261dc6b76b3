"""What the harness has to know of an engine, and what all adapters share.

An adapter writes the project of a graph into a folder and gives the command lines. It measures and judges nothing.
"""
import os
import pathlib
import shutil
import subprocess
from dataclasses import dataclass, field


@dataclass
class Command:
    argv: list
    env: dict = field(default_factory=dict)    # on top of the harness's


def write(path, text, mode=None):
    """Writes a file only if its text differs, so that the time of an unchanged one stays."""
    path = pathlib.Path(path)
    try:
        if path.read_text(encoding="utf-8") == text:
            return
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if mode:
        path.chmod(mode)


class Adapter:
    name = "?"
    jobs = 2              # how many stages at once it is asked for; 1 where it can't
    note = ""
    cold_only = False     # it has no state to look at: only the cold run says anything
    cold_most = None      # from so many stages on the cold run takes too long, and `seed` makes the state

    def __init__(self, options):
        self.tools, self.harness = options.tools, options.harness

    # -- the program
    def program(self):
        """Returns the path of the program, or None where it is not installed."""
        return self.find(f"{self.name}/bin/{self.name}", self.name)

    def find(self, relative, name):
        path = self.tools / relative
        return str(path) if os.access(path, os.X_OK) else shutil.which(name)

    def version(self):
        told = subprocess.run([self.program(), "--version"], capture_output=True, text=True, check=False)
        return (told.stdout or told.stderr).strip().split("\n")[0]

    # -- the project
    def generate(self):
        """Writes the project of `self.graph` into `self.folder`.

        It is called again after each edit and must rewrite only what the edit changed: see `write`.
        """
        raise NotImplementedError

    def begin(self, folder, graph):
        """Takes the folder and graph that all that follows is about."""
        self.folder, self.graph = folder, graph
        (folder / "out").mkdir(parents=True, exist_ok=True)
        if not (folder / "stage").exists():
            (folder / "stage").symlink_to(self.harness / "stage")
        self.update()

    def update(self):
        write(self.folder / "src/data.txt", self.graph.source())
        self.generate()

    def seed(self, expected):
        """Makes the state that a cold run leaves; returns False where that can't be done faithfully."""
        return False

    # -- the command lines
    def run(self):
        raise NotImplementedError

    def plan(self):
        """Returns the dry run or status, or None where there is none."""
        return None

    def planned(self, text):
        """Returns how many stages the output of `plan` says would run, or None."""
        return None

    # -- what it left
    def stage_of(self, label):
        """Returns the stage that a line of the stages' log is about."""
        return label

    def wrong_outputs(self, expected):
        """Returns the names of stages whose outputs are missing or not what they must be."""
        return [name for name, text in expected.items() if self._output(name) != text]

    def _output(self, name):
        try:
            return (self.folder / "out" / f"{name}.txt").read_text(encoding="utf-8")
        except OSError:
            return None

    # -- for `generate`
    @staticmethod
    def paths(stage):
        return (["src/data.txt"] if stage.reads_source else []) + [f"out/{name}.txt" for name in stage.inputs]

    def command(self, stage, param=None, inputs=None):
        words = ["./stage", f"out/{stage.name}.txt", stage.name, param or stage.param]
        return " ".join(words + (self.paths(stage) if inputs is None else inputs))
