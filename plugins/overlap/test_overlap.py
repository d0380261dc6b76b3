"""Tests of the overlap plugin and, through it, of the Python SDK: `python3 -m unittest` in this folder."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List, Optional

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import overlap  # noqa: E402
import volvelle_sdk  # noqa: E402

DEFAULTS = {"ngram": 8, "min_share": 0.5, "sorted_words": True, "fail_above": None}


class Worker(unittest.TestCase):
    """Runs the plugin as the engine does: a process, a request file, an event file."""

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def start(self, train: Any, test: List[Any], kind: str = "audit.overlap", **params: Any) -> subprocess.CompletedProcess:
        for name, lines in (("train", train), ("test", test)):
            if isinstance(lines, str):
                (self.folder / name).write_text(lines, encoding="utf-8")
            else:
                volvelle_sdk.write_jsonl(self.folder / name, lines)
        request = {
            "contract": 1, "kind": kind, "node": "audit", "key": "0", "seed": 1, "params": {**DEFAULTS, **params},
            "inputs": {name: {"path": str(self.folder / name), "axes": {}, "label": None} for name in ("train", "test")},
            "outputs": {name: str(self.folder / name) for name in ("report", "overlaps")},
            "partial": str(self.folder / "partial"), "events": str(self.folder / "events"),
            "resources": {"cpu": 1, "gpu": [], "mem_bytes": None},
        }
        volvelle_sdk.write_json(self.folder / "request", request)
        command = [sys.executable, str(HERE / "overlap.py"), str(self.folder / "request")]
        return subprocess.run(command, capture_output=True, text=True, cwd=self.folder)

    def report(self) -> Dict[str, Any]:
        return volvelle_sdk.read_json(self.folder / "report")

    def events(self, name: str) -> List[Dict[str, Any]]:
        return [event for event in volvelle_sdk.read_jsonl(self.folder / "events") if event["event"] == name]

    def error(self) -> Dict[str, Any]:
        return self.events("error")[-1]


def problem(identifier: str, text: str) -> Dict[str, Any]:
    return {"version": 1, "id": identifier, "problem": text, "answer": "24"}


class AuditTest(Worker):
    def test_each_way_to_overlap_is_counted(self) -> None:
        long = "a train leaves the station at noon and runs at sixty miles an hour until it meets another"
        train = [problem("a", "7 3 4 -> 24"), problem("b", long), problem("c", "What is 2 + 2?")]
        test = [
            problem("t1", "what is  2 + 2"),
            problem("t2", "3 4 7 -> 24"),
            problem("t3", "Yesterday " + long + " one"),
            problem("t4", "7 3 24 -> 4"),
            problem("t5", "1 2 3 -> 6"),
        ]
        result = self.start(train, test)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.report()["by_match"], {"exact": 1, "sorted": 1, "ngram": 1})
        self.assertEqual((self.report()["num_test"], self.report()["share"]), (5, 0.6))
        found = [(o["id"], o["train_id"]) for o in volvelle_sdk.read_jsonl(self.folder / "overlaps")]
        self.assertEqual(found, [("t1", "c"), ("t2", "a"), ("t3", "b")])
        self.assertEqual(self.events("metric")[-1]["value"], 0.6)
        self.assertEqual(self.events("progress")[-1]["done"], 5)

    def test_order_can_be_made_to_matter(self) -> None:
        self.start([problem("a", "7 3 4 -> 24")], [problem("t", "3 4 7 -> 24")], sorted_words=False)
        self.assertEqual(self.report()["num_overlaps"], 0)

    def test_chats_may_be_the_training_set(self) -> None:
        chat = {"messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "7 3 4 -> 24"}]}
        self.start([chat], [problem("t", "7 3 4 -> 24")])
        self.assertEqual(self.report()["by_match"]["exact"], 1)

    def test_too_much_overlap_fails_with_a_message(self) -> None:
        result = self.start([problem("a", "x y")], [problem("t", "x y"), problem("u", "z")], fail_above=0.25)
        self.assertEqual(result.returncode, 1)
        self.assertIn("1 of 2 test problems (50.0%)", self.error()["message"])
        self.assertIn("'t', like 'a' in training", self.error()["message"])
        self.assertTrue(self.error()["hint"])
        self.assertEqual(self.start([problem("a", "x y")], [problem("t", "x y")], fail_above=1).returncode, 0)

    def test_bad_input_fails_with_its_place(self) -> None:
        self.assertEqual(self.start('{"id": "a", "problem": "x"}\n{broken\n', []).returncode, 1)
        self.assertIn("train:2: not JSON", self.error()["message"])
        self.assertEqual(self.start([{"id": "a"}], []).returncode, 1)
        self.assertIn("neither `problem` nor `messages`", self.error()["message"])

    def test_the_same_input_gives_the_same_bytes(self) -> None:
        outputs = []
        for _ in range(2):
            self.start([problem("a", "one two three four"), problem("b", "two three")], [problem("t", "one two three")], ngram=2)
            outputs.append([(self.folder / name).read_bytes() for name in ("report", "overlaps")])
        self.assertEqual(outputs[0], outputs[1])

    def test_nothing_to_test_is_no_overlap(self) -> None:
        self.assertEqual(self.start([], []).returncode, 0)
        self.assertEqual(self.report()["share"], 0.0)


class SdkTest(Worker):
    def test_an_unknown_kind_is_an_error(self) -> None:
        self.assertEqual(self.start([], [], kind="audit.other").returncode, 1)
        self.assertIn("no kind 'audit.other'", self.error()["message"])

    def test_a_wrong_call_prints_how_to_call(self) -> None:
        result = subprocess.run([sys.executable, str(HERE / "overlap.py")], capture_output=True, text=True)
        self.assertNotEqual(result.returncode, 0)
        self.assertIn("usage: overlap.py REQUEST.json", result.stderr)

    def job(self, inputs: Optional[Dict[str, Any]] = None) -> volvelle_sdk.Job:
        return volvelle_sdk.Job({
            "contract": 1, "kind": "k", "node": "n", "key": "0", "seed": 3, "params": {"x": 1}, "inputs": inputs or {},
            "outputs": {"report": str(self.folder / "report")}, "partial": str(self.folder / "partial"),
            "events": str(self.folder / "events"), "resources": {"cpu": 2},
        })

    def test_inputs_single_gathered_and_absent(self) -> None:
        items = [{"path": "/a", "axes": {"seed": 1}, "label": "sft"}, {"path": "/b"}]
        job = self.job({"one": items[0], "many": items})
        self.assertEqual((job.input("one").path, job.input("one").label), (Path("/a"), "sft"))
        self.assertEqual([dict(item.axes) for item in job.inputs("many")], [{"seed": 1}, {}])
        self.assertEqual((job.inputs("none"), job.input_opt("none")), ([], None))
        for name in ("many", "none"):
            with self.assertRaises(volvelle_sdk.Failure):
                job.input(name)
        with self.assertRaises(volvelle_sdk.Failure):
            job.output("other")

    def test_an_exception_becomes_an_error_event(self) -> None:
        request = self.folder / "request"
        volvelle_sdk.write_json(request, {
            "contract": 1, "kind": "k", "node": "n", "key": "0", "seed": 3, "params": {}, "inputs": {}, "outputs": {},
            "partial": "p", "events": str(self.folder / "events"), "resources": {"cpu": 1},
        })
        program = "import sys; sys.path.insert(0, sys.argv[1]); import volvelle_sdk\n" \
            "def broken(job): return {}['missing']\nvolvelle_sdk.main({'k': broken})"
        sdk = str(HERE.parent / "sdk")
        result = subprocess.run([sys.executable, "-c", program, sdk, str(request)], capture_output=True, text=True)
        self.assertEqual(result.returncode, 1)
        self.assertEqual(self.error()["message"], "KeyError: 'missing'")
        self.assertIn("Traceback", result.stderr)

    def test_values_that_are_not_json_are_dropped_not_fatal(self) -> None:
        job = self.job()
        job.metric("loss", float("nan"))
        job.metric("loss", 0.5, step=2)
        self.assertEqual([event["value"] for event in self.events("metric")], [0.5])

    def test_progress_is_thinned_but_always_ends(self) -> None:
        job = self.job()
        for done in range(1, 1001):
            job.progress(done, 1000)
        events = self.events("progress")
        self.assertLess(len(events), 100)
        self.assertEqual(events[-1]["done"], 1000)

    def test_another_contract_is_refused(self) -> None:
        with self.assertRaisesRegex(volvelle_sdk.Failure, "version 2"):
            volvelle_sdk.Job({"contract": 2})


if __name__ == "__main__":
    unittest.main()
