"""The programs that are compared, each as the commands that its users would give.

A lane's turn yields (what, seconds). What it makes is removed before it is made anew, outside the clock; what was written
before is on the disk (`sync`) before a clock starts. The folder itself is in the page cache: that is the case after a
stage has just made it.
"""
import json
import os
import shutil
import subprocess
import time

PIPELINE = """volvelle: 1
name: folder
stages:
  make:
    uses: command
    with: {{ run: "cp -r {data} ${{outputs.out}}" }}
    outputs: {{ out: folder }}
"""


class Lane:
    """One program with a folder of its own."""

    name = None

    def __init__(self, options, data, folder):
        self.options, self.data, self.folder = options, data, folder
        folder.mkdir(exist_ok=True)

    @classmethod
    def program(cls, options):
        """Returns the path of the program."""
        raise NotImplementedError

    @classmethod
    def is_there(cls, options):
        return shutil.which(str(cls.program(options))) is not None

    @classmethod
    def version(cls, options):
        done = subprocess.run([cls.program(options), "--version"], capture_output=True, text=True, check=False)
        return (done.stdout or done.stderr).strip().splitlines()[0]

    def turn(self):
        """Does everything once; yields what was done and the seconds it took."""
        raise NotImplementedError

    def timed(self, *argv, env=None, cwd=None):
        """Returns the seconds that a command takes, and what it printed."""
        os.sync()
        start = time.perf_counter()
        done = subprocess.run([str(word) for word in argv], cwd=cwd or self.folder, capture_output=True, text=True, check=False,
                              env={**os.environ, **(env or {})})
        seconds = time.perf_counter() - start
        if done.returncode != 0:
            raise SystemExit(f"{argv}: exit code {done.returncode}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return seconds, done.stdout

    def without(self, name):
        """Returns a path at which nothing lies."""
        path = self.folder / name
        subprocess.run(["chmod", "-R", "u+w", str(path)], check=False, stderr=subprocess.DEVNULL)
        shutil.rmtree(path, ignore_errors=True)
        return path


class Volvelle(Lane):
    name = "volvelle"

    @classmethod
    def program(cls, options):
        return options.volvelle

    def turn(self):
        cache = self.without("cache")
        pipeline = self.folder / "p.yaml"
        pipeline.write_text(PIPELINE.format(data=self.data), encoding="utf-8")
        volvelle = [self.options.volvelle, "--cache", cache]
        # A cache exists before results are put into it.
        self.timed(*volvelle, "plan", pipeline)
        wall, printed = self.timed(*volvelle, "run", pipeline, "--json")
        record = json.loads(self.timed(*volvelle, "show", pipeline, "make", "--json")[1])
        assert '"executed":1' in printed.replace(" ", ""), printed
        # All that the run took but for the stage itself, which copies the folder.
        yield "commit", wall - record["seconds"]
        yield "stage", record["seconds"]
        seconds, printed = self.timed(*volvelle, "run", pipeline)
        assert "cached" in printed, printed
        yield "no-op", seconds
        yield "rehash", self.timed(*volvelle, "run", pipeline, "--paranoid")[0]
        # A folder that is only read lies among the outputs as links.
        self.without("cache/outputs")
        yield "restore by link", self.timed(*volvelle, "show", pipeline, "make.out", "--path")[0]
        yield "restore as a copy", self.timed(*volvelle, "show", pipeline, "make.out", "--to", self.without("copy"))[0]
        self.without("copy")
        self.without("cache")


class Coreutils(Lane):
    name = "cp"

    @classmethod
    def program(cls, options):
        return "cp"

    def turn(self):
        copy = self.without("copy")
        # One write of the folder, on the disk when it ends.
        yield "write", self.timed("sh", "-c", 'cp -r "$1" "$2" && sync -f "$2"', "sh", self.data, copy)[0]
        copy = self.without("copy")
        yield "restore as a copy", self.timed("cp", "-r", self.data, copy)[0]
        copy = self.without("copy")
        yield "restore by link", self.timed("cp", "-rl", self.data, copy)[0]
        self.without("copy")


class B3sum(Lane):
    name = "b3sum"

    @classmethod
    def program(cls, options):
        return options.tools / "b3sum/bin/b3sum"

    def turn(self):
        hashing = 'find "$1" -type f -print0 | xargs -0 "$2"'
        yield "rehash", self.timed("sh", "-c", hashing, "sh", self.data, self.program(self.options))[0]


class Dvc(Lane):
    name = "dvc"

    @classmethod
    def program(cls, options):
        return options.tools / "dvc/bin/dvc"

    def turn(self):
        project = self.without("project")
        project.mkdir()
        env = {"DVC_NO_ANALYTICS": "1", "DVC_SITE_CACHE_DIR": str(project / ".site"),
               "DVC_GLOBAL_CONFIG_DIR": str(project / ".global")}
        def dvc(*argv):
            return self.timed(self.program(self.options), *argv, "-q", env=env, cwd=project)[0]

        dvc("init", "--no-scm")
        (project / ".dvc/config").write_text("[core]\n    no_scm = True\n    analytics = false\n    check_update = false\n"
                                             "[cache]\n    type = hardlink\n", encoding="utf-8")
        self.timed("cp", "-r", self.data, project / "tree")
        yield "commit", dvc("add", "tree")
        yield "no-op", dvc("status")
        self.without("project/tree")
        yield "restore by link", dvc("checkout")
        # Without its memory of stats it reads everything again.
        self.without("project/.site")
        self.without("project/.dvc/tmp")
        yield "rehash", dvc("status")
        self.without("project")


ALL = {lane.name: lane for lane in (Volvelle, Coreutils, B3sum, Dvc)}
