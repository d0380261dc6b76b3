"""The parts of the model benchmark that no run of it would show to be wrong."""
import unittest

import report
import workload


def results(device="cpu", **seconds):
    done = []
    for name, (ours, transformers, *trl) in seconds.items():
        lanes = {"volvelle-torch": ours, "transformers": transformers, **({"trl": trl[0]} if trl else {})}
        figures = {lane: {"median": value, "least": value, "cpu_median": value, "tokens_per_second": 1 / value}
                   for lane, value in lanes.items()}
        done.append({"case": workload.case(name.replace("_", "-")), "figures": figures, "agreement": None, "load": 0.0})
    machine = {"date": "", "commit": "", "cpu": "", "cores": 2, "memory_gb": 24, "kernel": ""}
    return {"machine": machine, "model": "m", "device": device, "dtype": "float32", "num_threads": 2, "turns": 1, "done": done}


class Report(unittest.TestCase):
    def test_goals_are_judged_by_their_own_peer(self):
        rows = report.goals(results(generate_1=(1.0, 1.29), generate_8=(1.0, 2.0), grpo=(1.0, 1.5, 2.5)))
        self.assertEqual([row[2] for row in rows], ["**not met**", "met", "met"])
        self.assertIn("2.50 times", rows[2][1])

    def test_every_case_can_be_told(self):
        text = report.write(results(**{name.replace("-", "_"): (1.0, 2.0, 3.0) for name in workload.CASES}))
        for name in workload.CASES:
            self.assertIn(f"## {name}\n", text)


class Workload(unittest.TestCase):
    def test_unequal_lengths_spread_over_the_range_and_equal_ones_do_not(self):
        for step in (3, 5):
            lengths = workload.lengths(128, 8, True, step)
            self.assertEqual((min(lengths), max(lengths), len(set(lengths))), (16, 128, 8))
        self.assertEqual(workload.lengths(128, 3, False, 5), [128] * 3)
        self.assertEqual(workload.lengths(128, 1, True, 5), [128])

    def test_tokens_are_ids_and_differ_between_rows(self):
        ids = [[workload.token(row, position, 500) for position in range(50)] for row in range(4)]
        self.assertTrue(all(3 <= id_ < 500 for row in ids for id_ in row))
        self.assertEqual(len(set(map(tuple, ids))), 4)
        self.assertEqual(ids[0][:3], [workload.token(0, position, 500) for position in range(3)])

    def test_every_case_has_flags(self):
        for name in workload.CASES:
            self.assertIn("--task", workload.arguments(workload.case(name)))


if __name__ == "__main__":
    unittest.main()
