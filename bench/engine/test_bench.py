"""The parts of the benchmark that no run of it would show to be wrong: the graphs, their edits, and the verdicts."""
import pathlib
import tempfile
import types
import unittest

import report
import run
from adapters.base import Adapter
from graphs import Chain, Sweep
from measure import turns_for


def lane(stages, noop=None, cold=None, rss_mb=10):
    figures = {what: {"wall": wall, "wall_least": wall, "cpu": wall, "rss_mb": rss_mb}
               for what, wall in (("noop", noop), ("cold", cold)) if wall is not None}
    return {"stages": stages, "faults": [], "skipped": {}, **figures}


def verdicts(graphs):
    table = report.goals({"graphs": {graph: {"lanes": lanes} for graph, lanes in graphs.items()}})
    return [row.split(" | ")[-1].rstrip(" |") for row in table.splitlines()[4:] if row]


class Graphs(unittest.TestCase):
    def test_a_sweep_has_no_stages_left_over(self):
        for size, stages in ((2, 14), (100, 98), (1000, 998), (10_000, 9_998)):
            self.assertEqual(len(Sweep(size)), stages)

    def test_an_edit_reaches_four_stages_and_changes_their_outputs_alone(self):
        graph = Sweep(26)
        before = graph.expected()
        graph.edit()
        after = graph.expected()
        changed = {name for name in before if before[name] != after[name]}
        self.assertEqual(changed, graph.downstream(graph.edited))
        self.assertEqual(changed, {"sft_r3_s1", "grpo_r3_s1", "eval_r3_s1", "report"})

    def test_no_edit_comes_twice(self):
        graph, seen = Sweep(14), set()
        for _ in range(300):
            graph.edit()
            seen.add(float(graph.stages[graph.edited].axes["learning_rate"]))
        self.assertEqual(len(seen), 300)

    def test_the_last_output_of_a_chain_depends_on_the_source_but_not_on_its_comments(self):
        graph = Chain(10)
        before = graph.expected()
        graph.touch()
        self.assertIn("#", graph.source())
        self.assertEqual(graph.expected(), before)

    def test_wrong_and_missing_outputs_are_found(self):
        adapter = Adapter(types.SimpleNamespace(tools=None, harness=None))
        with tempfile.TemporaryDirectory() as folder:
            adapter.folder = pathlib.Path(folder)
            (adapter.folder / "out").mkdir()
            (adapter.folder / "out/a.txt").write_text("right", encoding="utf-8")
            (adapter.folder / "out/b.txt").write_text("wrong", encoding="utf-8")
            self.assertEqual(adapter.wrong_outputs({"a": "right", "b": "right", "c": "right"}), ["b", "c"])


class Limits(unittest.TestCase):
    options = types.SimpleNamespace(quick=False, limit=60, cold_limit=100)

    def test_what_would_run_into_the_limit_is_foreseen(self):
        graphs = {"W1/1000": {"lanes": {"dvc": lane(998, noop=18), "snakemake": lane(998, noop=1.9)}}}
        for name, graph, skipped in (("dvc", "W1/10000", True), ("dvc", "W2/10000", False),
                                     ("snakemake", "W1/10000", False), ("ninja", "W1/10000", False)):
            reason = run.reason_to_skip(name, graph, self.options, {"graphs": graphs})
            self.assertEqual(reason is not None, skipped, f"{name} {graph}: {reason}")

    def test_slow_commands_are_repeated_less(self):
        self.assertEqual([turns_for(wall, 10) for wall in (0.01, 1, 5, 20, 100)], [10, 5, 3, 2, 1])
        self.assertEqual(turns_for(0.01, 3), 3)


class Verdicts(unittest.TestCase):
    def test_nothing_measured_is_neither_met_nor_missed(self):
        self.assertEqual(set(verdicts({})), {"not measured"})

    def test_each_goal_is_judged_by_its_own_figure(self):
        graphs = {
            "W1/10000": {"volvelle": lane(9_998, noop=0.09, cold=40), "ninja": lane(9_998, noop=0.06, cold=21),
                         "floor": lane(9_998, cold=20), "dvc": lane(9_998, noop=30), "snakemake": lane(9_998, noop=5)},
            "W1/100000": {"volvelle": lane(99_998, noop=1.6, rss_mb=99)},
        }
        met, missed = "met", "**not met**"
        self.assertEqual(verdicts(graphs), [met, met, missed, missed, met, met, "not measured"])

    def test_a_lane_with_a_fault_proves_nothing(self):
        broken = {**lane(99_998, noop=0.1, cold=1), "faults": ["noop: 3 stages ran"]}
        told = verdicts({"W1/100000": {"volvelle": broken, "floor": lane(99_998, cold=1)}})
        self.assertNotIn("met", told)


if __name__ == "__main__":
    unittest.main()
