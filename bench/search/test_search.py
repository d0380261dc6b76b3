"""The parts of the search benchmark that no run of it would show to be wrong."""
import argparse
import json
import pathlib
import tempfile
import unittest

import search


def options(folder, **more):
    values = {"model": pathlib.Path("m"), "problems": None, "num_problems": 2, "prompt_length": 5, "num_simulations": 4,
              "num_candidates": 8, "num_rollouts": 4, "max_step_length": 24, "max_completion_length": 64,
              "generation_batch_size": 256, "num_threads": 2, "turns": 3, "scratch": pathlib.Path(folder)}
    return argparse.Namespace(**{**values, **more})


def taken(*seconds):
    return [{"seconds": value, "simulations": 8, "nodes": 60, "tokens": 1000} for value in seconds]


class Report(unittest.TestCase):
    def test_the_goal_is_judged_by_the_ratio_of_the_medians(self):
        machine = {"date": "", "commit": "", "cpu": ""}
        for ours, verdict in ((2.0, "is met"), (2.1, "is **not met**")):
            runs = {search.OURS: taken(0.1, ours, 9.0), search.PEER: taken(1.0, 6.0, 60.0)}
            text, ratio = search.report(options("."), runs, machine)
            self.assertAlmostEqual(ratio, 6.0 / ours)
            self.assertIn(verdict, text)


class Prepare(unittest.TestCase):
    def test_made_up_problems_differ_and_given_ones_are_cut(self):
        with tempfile.TemporaryDirectory() as folder:
            made = options(folder)
            search.prepare(made)
            problems = [json.loads(line) for line in made.problems.read_text(encoding="utf-8").splitlines()]
            self.assertEqual([len(problem["problem"].split()) for problem in problems], [5, 5])
            self.assertNotEqual(problems[0]["problem"], problems[1]["problem"])
            given = pathlib.Path(folder, "given.jsonl")
            given.write_text("a\nb\nc\n", encoding="utf-8")
            chosen = options(folder, problems=given)
            search.prepare(chosen)
            self.assertEqual(chosen.problems.read_text(encoding="utf-8"), "a\nb\n")


class Params(unittest.TestCase):
    def test_they_are_all_that_the_kind_has(self):
        manifest = (search.ROOT / "plugins/torch/plugin.yaml").read_text(encoding="utf-8")
        section = manifest.split("\n  astro.search:\n")[1].split("\n    inputs:")[0].split("\n    params:\n")[1]
        names = {line.split(":")[0].strip() for line in section.splitlines() if line.startswith(" " * 6) and line[6] != " "}
        self.assertEqual(set(search.params(options("."))), names)


if __name__ == "__main__":
    unittest.main()
