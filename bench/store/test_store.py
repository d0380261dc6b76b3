"""The parts of the benchmark of the store that no run of it would show to be wrong."""
import pathlib
import tempfile
import unittest

import section


def folder(**medians):
    lanes = {}
    for name, value in medians.items():
        lane, what = name.split("__")
        lanes.setdefault(lane, {})[what.replace("_", " ").replace("no op", "no-op")] = {"median": value, "least": value}
    return {"large": {"lanes": lanes}}


class Report(unittest.TestCase):
    def test_goals_are_judged_by_the_longer_of_the_two(self):
        done = folder(volvelle__commit=1.1, cp__write=1.0, b3sum__rehash=0.3, volvelle__no_op=0.021,
                      volvelle__restore_by_link=0.049)
        self.assertEqual([row[2] for row in section.goals(done)], ["met", "**not met**", "met"])
        done["large"]["lanes"]["cp"]["write"]["median"] = 0.5
        self.assertIn("2.20 times", section.goals(done)[0][1])

    def test_the_section_is_replaced_and_the_rest_of_a_report_stays(self):
        with tempfile.TemporaryDirectory() as folder_:
            path = pathlib.Path(folder_) / "results.md"
            path.write_text("# Engine benchmark\n\nfigures\n", encoding="utf-8")
            section.put_into(path, f"{section.HEADING}\n\nold\n")
            section.put_into(path, f"{section.HEADING}\n\nnew\n")
            self.assertEqual(path.read_text(encoding="utf-8"),
                             f"# Engine benchmark\n\nfigures\n\n{section.HEADING}\n\nnew\n")


if __name__ == "__main__":
    unittest.main()
