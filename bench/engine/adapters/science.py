"""Tools for experiments: DVC and Snakemake."""
import hashlib
import json
import os
import re
import subprocess

from .base import Adapter, Command, write


class Dvc(Adapter):
    name, jobs = "dvc", 1
    note = "repro is serial; the parameter is in the stage's cmd, the cheapest form for DVC"
    cold_most = 500       # its cold run grows faster than N: 22 s CPU for 100 stages

    def generate(self):
        if not (self.folder / ".dvc").is_dir():
            subprocess.run([self.program(), "init", "--no-scm", "-q"], cwd=self.folder, check=True,
                           env={**os.environ, **self._env()})
            write(self.folder / ".dvc/config",
                  "[core]\n    no_scm = True\n    analytics = false\n    check_update = false\n")
        lines = ["stages:"]
        for stage in self.graph.stages.values():
            lines += [f"  {stage.name}:", f"    cmd: {self.command(stage)}", "    deps:"]
            lines += [f"    - {path}" for path in self.paths(stage)]
            lines += ["    outs:", f"    - out/{stage.name}.txt"]
        write(self.folder / "dvc.yaml", "\n".join(lines) + "\n")

    def seed(self, expected):
        """Outputs, cache and dvc.lock as `dvc repro` would leave them."""
        lines = ["schema: '2.0'", "stages:"]
        for stage in self.graph.stages.values():
            lines += [f"  {stage.name}:", f"    cmd: {self.command(stage)}", "    deps:"]
            for path in sorted(self.paths(stage)):
                lines += _lock_entry(path, self.graph.source() if path.startswith("src") else expected[path[4:-4]])
            text = expected[stage.name]
            lines += ["    outs:", *_lock_entry(f"out/{stage.name}.txt", text)]
            write(self.folder / "out" / f"{stage.name}.txt", text)
            digest = _md5(text)
            write(self.folder / ".dvc/cache/files/md5" / digest[:2] / digest[2:], text, 0o444)
        write(self.folder / "dvc.lock", "\n".join(lines) + "\n")
        return True

    def run(self):
        return Command([self.program(), "repro", "-q"], self._env())

    def plan(self):
        return Command([self.program(), "status"], self._env())

    def planned(self, text):
        return 0 if "up to date" in text else len(re.findall(r"^\w+:\s*$", text, re.M))

    def _env(self):
        return {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(self.folder / ".dvc-site"),
                "DVC_GLOBAL_CONFIG_DIR": str(self.folder / ".dvc-global")}


def _md5(text):
    return hashlib.md5(text.encode()).hexdigest()


def _lock_entry(path, text):
    return [f"    - path: {path}", "      hash: md5", f"      md5: {_md5(text)}", f"      size: {len(text)}"]


SNAKEFILE = '''import json
D = json.load(open("dag.json"))
rule all:
    input: [f"out/{n}.txt" for n in D]
'''
RULE = '''
rule {kind}:
    input: lambda w: D["{kind}" + w.tag]["inputs"]
    output: "out/{kind}{{tag,[^.]*}}.txt"
    params: p=lambda w: D["{kind}" + w.tag]["param"], n=lambda w: "{kind}" + w.tag
    shell: "./stage {{output}} {{params.n}} {{params.p}} {{input}}"
'''


class Snakemake(Adapter):
    name = "snakemake"
    note = "one rule for each kind of stage; greedy scheduler"

    def generate(self):
        kinds = dict.fromkeys(stage.kind for stage in self.graph.stages.values())
        write(self.folder / "Snakefile", SNAKEFILE + "".join(RULE.format(kind=kind) for kind in kinds))
        write(self.folder / "dag.json", json.dumps({
            stage.name: {"inputs": self.paths(stage), "param": stage.param} for stage in self.graph.stages.values()}))

    def run(self):
        return Command([self.program(), "-j", str(self.jobs), "--scheduler", "greedy", "--quiet", "all"], self._env())

    def plan(self):
        return Command([self.program(), "-n", "--quiet", "rules"], self._env())

    def planned(self, text):
        if "Nothing to be done" in text:
            return 0
        total = re.search(r"^total\s+(\d+)", text, re.M)
        return int(total.group(1)) - bool(re.search(r"^all\s+1\b", text, re.M)) if total else None

    def _env(self):
        return {"XDG_CACHE_HOME": str(self.folder / ".cache"), "HOME": str(self.folder)}
