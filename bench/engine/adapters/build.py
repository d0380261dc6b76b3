"""Build tools: ninja, n2, GNU make; and the floor under all of them."""
import re

from .base import Adapter, Command, write

# More inputs than this go through a file: one argument of a program holds 128 KiB.
MOST_WORDS = 100


class Floor(Adapter):
    name, cold_only = "floor", True
    note = "no engine: tools/floor.rs starts the same command lines, in waves of equal depth"

    def program(self):
        return str(self.harness / "floor")

    def version(self):
        return "-"

    def generate(self):
        depth, waves = {}, {}
        for stage in self.graph.stages.values():
            depth[stage.name] = 1 + max((depth[name] for name in stage.inputs), default=0)
            waves.setdefault(depth[stage.name], []).append(self._line(stage))
        write(self.folder / "commands.txt", "\n\n".join("\n".join(wave) for wave in waves.values()) + "\n")

    def _line(self, stage):
        paths = self.paths(stage)
        if len(paths) <= MOST_WORDS:
            return self.command(stage)
        write(self.folder / f"{stage.name}.in", "\n".join(paths) + "\n")
        return self.command(stage, inputs=[f"@{stage.name}.in"])

    def run(self):
        return Command([self.program(), str(self.jobs), "commands.txt"])


class Ninja(Adapter):
    name = "ninja"
    flags, extra = "", []

    def program(self):
        return self.find("ninja/bin/ninja", "ninja")

    def generate(self):
        command, more = f"  command = ./stage{self.flags} $out $name $p ", ["  description = $name", *self.extra]
        lines = ["rule stage", command + "$in", *more,
                 "rule gather", command + "@$out.in", "  rspfile = $out.in", "  rspfile_content = $in", *more]
        for stage in self.graph.stages.values():
            rule = "stage" if len(stage.inputs) <= MOST_WORDS else "gather"
            lines += [f"build out/{stage.name}.txt: {rule} {' '.join(self.paths(stage))}",
                      f"  name = {stage.name}", f"  p = {stage.param}"]
        write(self.folder / "build.ninja", "\n".join(lines) + "\n")

    def run(self):
        return Command([self.program(), f"-j{self.jobs}"])

    def plan(self):
        return Command([self.program(), "-n"])

    def planned(self, text):
        if "no work to do" in text:
            return 0
        totals = re.findall(r"\[\d+/(\d+)\]", text)
        return int(totals[-1]) if totals else None


class NinjaRestat(Ninja):
    name = "ninja-restat"
    flags, extra = " -k", ["  restat = 1"]
    note = "restat = 1, and stages that leave an unchanged output alone"


class N2(Ninja):
    name = "n2"

    def program(self):
        return self.find("bin/n2", "n2")

    def plan(self):
        return None


class Make(Adapter):
    name = "make"
    note = "one file for each parameter, as a prerequisite; -rR"

    def generate(self):
        lines = ["MAKEFLAGS += -rR", ".SUFFIXES:", "all: " + " ".join(f"out/{name}.txt" for name in self.graph.stages)]
        for stage in self.graph.stages.values():
            write(self.folder / "params" / stage.name, f"v: {stage.param}\n")
            param, target, paths = f"params/{stage.name}", f"out/{stage.name}.txt", self.paths(stage)
            lines.append(f"{target}: {' '.join(paths)} {param}")
            if len(paths) > MOST_WORDS:
                # The last prerequisite is the parameter, which is no input.
                lines.append(f"\t$(file >{target}.in,$(filter-out {param},$^))")
                paths = [f"@{target}.in"]
            lines.append("\t" + self.command(stage, f"@{param}:v", paths))
        write(self.folder / "Makefile", "\n".join(lines) + "\n")

    def run(self):
        return Command([self.program(), "-s", f"-j{self.jobs}"])

    def plan(self):
        return Command([self.program(), "-n"])

    def planned(self, text):
        return len(re.findall(r"^\./stage ", text, re.M))
