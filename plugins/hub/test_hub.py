"""Tests of `data.hub` on rows as the library gives them, on the library itself where it is installed, and of `data.concat`."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from typing import Any, Dict, List, Tuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import hub  # noqa: E402
import volvelle_sdk  # noqa: E402
from volvelle_sdk import Failure  # noqa: E402

COMMIT = "740312add88f781978c0658806c59bc2815b9866"
DEFAULTS = {
    "repo": "openai/gsm8k", "revision": COMMIT, "config": None, "split": "train", "problem_field": "problem",
    "answer_field": "answer", "answer_pattern": None, "boxed_answer": False, "skip_unanswered": False, "id_field": None,
    "meta_fields": [], "where": {}, "exclude": {}, "shuffle": False, "seed": 0, "count": None, "template": "{problem}",
    "solution_field": None, "solution_template": "{solution}\n\nThe answer is {answer}.", "verifier": "math",
}


class Hub:
    """Stands for the hub: what `load_dataset` is asked for, and the rows that it gives."""

    def __init__(self, **rows: List[Dict[str, Any]]) -> None:
        self.rows = rows
        self.asked: List[Tuple[Any, ...]] = []

    def __call__(self, repo: str, name: Any, split: str, revision: str) -> List[Dict[str, Any]]:
        self.asked.append((repo, name, split, revision))
        return self.rows[name or "default"]


def rows(*answers: Any, **more: Any) -> List[Dict[str, Any]]:
    return [{"problem": f" {idx}? ", "answer": answer, **more} for idx, answer in enumerate(answers)]


class HubTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def job(self, **params: Any) -> volvelle_sdk.Job:
        return volvelle_sdk.Job({
            "contract": 1, "kind": "data.hub", "node": "train", "key": "0", "seed": 1, "params": {**DEFAULTS, **params},
            "inputs": {}, "outputs": {name: str(self.folder / name) for name in ("problems", "chats")},
            "partial": str(self.folder / "partial"), "events": str(self.folder / "events"),
            "resources": {"cpu": 1, "gpu": [], "mem_bytes": None},
        })

    def read(self, load: Any, **params: Any) -> Tuple[List[Dict[str, Any]], List[Dict[str, Any]]]:
        job = self.job(**params)
        return hub.read(load, job.params, job)

    def test_rows_become_problems_as_data_jsonl_makes_them(self) -> None:
        source = Hub(main=[{"question": "1 + 1?\n", "answer": "1 + 1 = 2\nso\n#### 1,002 ", "level": 3}])
        problems, chats = self.read(
            source, config="main", problem_field="question", answer_pattern=r"####\s*(.+)", solution_field="answer",
            template="{problem}\nBox it.", meta_fields=["level", "absent"],
        )
        self.assertEqual(source.asked, [("openai/gsm8k", "main", "train", COMMIT)])
        expected = {"version": 1, "id": "gsm8k-main-train-000000", "problem": "1 + 1?\nBox it.", "answer": "1,002"}
        self.assertEqual(problems, [{**expected, "verifier": "math", "meta": {"level": 3}}])
        self.assertEqual(chats[0]["messages"][1]["content"], "1 + 1 = 2\n\nso\n\n#### 1,002\n\nThe answer is 1,002.")

    def test_data_jsonl_makes_the_same_of_the_same_rows(self) -> None:
        programs = [HERE.parents[1] / "target" / profile / "volvelle-torch" for profile in ("release", "debug")]
        program = next((path for path in programs if path.exists()), None)
        if program is None:
            reason = "volvelle-torch is not built"
            print(f"skipped: {self.id()}: {reason}", file=sys.stderr)
            self.skipTest(reason)
        lines = [{"id": f"x{idx}", **row} for idx, row in enumerate(rows("1", "2", level=3, subject="algebra", solution="a\n\nb"))]
        params = {"id_field": "id", "meta_fields": ["level", "subject"], "solution_field": "solution", "template": "Q: {problem}"}
        expected = self.read(Hub(default=lines), **params)
        volvelle_sdk.write_jsonl(self.folder / "rows.jsonl", lines)
        shared = ("problem_field", "answer_field", "answer_pattern", "shuffle", "seed", "count", "solution_template", "verifier")
        volvelle_sdk.write_json(self.folder / "request", {
            "contract": 1, "kind": "data.jsonl", "node": "train", "key": "0", "seed": 1,
            "params": {**{name: DEFAULTS[name] for name in shared}, **params, "path": str(self.folder / "rows.jsonl"), "offset": 0},
            "inputs": {}, "outputs": {name: str(self.folder / f"out-{name}") for name in ("problems", "chats")},
            "partial": str(self.folder / "partial"), "events": str(self.folder / "events"),
            "resources": {"cpu": 1, "gpu": [], "mem_bytes": None},
        })
        result = subprocess.run([str(program), "worker", str(self.folder / "request")], capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        found = [list(volvelle_sdk.read_jsonl(self.folder / f"out-{name}")) for name in ("problems", "chats")]
        self.assertEqual(found, list(expected))

    def test_configurations_are_joined_and_ids_stay_apart(self) -> None:
        source = Hub(algebra=rows("1", "2"), geometry=rows("3"))
        problems, _ = self.read(source, config=["algebra", "geometry"])
        self.assertEqual([p["answer"] for p in problems], ["1", "2", "3"])
        self.assertEqual(len({p["id"] for p in problems}), 3)

    def test_rows_are_chosen_by_their_values(self) -> None:
        source = Hub(default=[
            {"problem": "a", "answer": 1, "source": "amc", "valid": True}, {"problem": "b", "answer": 2, "source": "aops", "valid": True},
            {"problem": "c", "answer": 3, "source": "cn", "valid": True}, {"problem": "d", "answer": "proof", "source": "amc", "valid": True},
            {"problem": "e", "answer": 5, "source": "amc", "valid": False},
        ])
        problems, _ = self.read(source, where={"source": ["amc", "aops"], "valid": True}, exclude={"answer": ["proof", "notfound"]})
        self.assertEqual([(p["problem"], p["answer"]) for p in problems], [("a", "1"), ("b", "2")])
        with self.assertRaisesRegex(Failure, "gsm8k-train, row 0: there is no column 'kind'; there are answer, problem"):
            self.read(source, where={"kind": "amc"})

    def test_the_same_seed_takes_the_same_and_a_smaller_count_the_beginning(self) -> None:
        source = Hub(default=rows(*map(str, range(50))))
        def taken(**params: Any) -> List[str]:
            return [p["answer"] for p in self.read(source, shuffle=True, **params)[0]]
        self.assertEqual(taken(seed=1), taken(seed=1))
        self.assertNotEqual(taken(seed=1), taken(seed=2))
        self.assertEqual(taken(seed=1, count=5), taken(seed=1)[:5])

    def test_answers_are_found_in_boxes(self) -> None:
        for text, expected in [
            (r"so \boxed{2}", "2"), (r"\boxed{1} then \boxed{ \frac{1}{2} }.", r"\frac{1}{2}"), (r"\boxed {\{1\}}", r"\{1\}"),
            (r"\boxed{a} and \boxed{b", "a"), (r"\boxed 7", None), ("7", None), (r"\boxed{\left\{x\right.}", r"\left\{x\right."),
        ]:
            self.assertEqual(hub.last_boxed(text), expected, text)
        problems, _ = self.read(Hub(default=rows(r"x \boxed{5}", "none")), boxed_answer=True, skip_unanswered=True)
        self.assertEqual([p["answer"] for p in problems], ["5"])

    def test_rows_without_an_answer_fail_unless_they_may_be_left_out(self) -> None:
        for bad in (None, "", "  "):
            source = Hub(default=rows("1", bad))
            with self.assertRaisesRegex(Failure, "gsm8k-train-000001: no answer is found in column 'answer'"):
                self.read(source)
            self.assertEqual(len(self.read(source, skip_unanswered=True)[0]), 1)
        with self.assertRaisesRegex(Failure, "the statement is empty"):
            self.read(Hub(default=[{"problem": " ", "answer": "1"}]))
        with self.assertRaisesRegex(Failure, "neither text nor a number"):
            self.read(Hub(default=rows(["1"])))
        with self.assertRaisesRegex(Failure, "1 problems are left of 2 rows, but 2 are asked for"):
            self.read(Hub(default=rows("1", None)), skip_unanswered=True, count=2)

    def test_what_would_not_name_the_same_data_is_refused(self) -> None:
        for params, words in [
            ({"revision": "main"}, "no commit"), ({"revision": COMMIT[:7]}, "no commit"), ({"repo": "/data/x"}, "no name of a dataset"),
            ({"repo": "../x"}, "no name of a dataset"), ({"template": "x"}, "has no {problem}"), ({"config": []}, "each once"),
            ({"answer_pattern": "("}, "no regular expression"), ({"answer_pattern": "x", "boxed_answer": True}, "both say"),
            ({"id_field": "answer"}, "another row has the same id"),
        ]:
            with self.assertRaisesRegex(Failure, words):
                self.read(Hub(default=rows("1", "1")), **params)

    def test_what_the_library_raises_comes_with_what_to_do(self) -> None:
        def load(*_: Any, **__: Any) -> Any:
            raise ConnectionError("Couldn't reach the hub\nmore words")
        with self.assertRaisesRegex(Failure, "openai/gsm8k at 740312add88f: Couldn't reach the hub$") as raised:
            self.read(load)
        self.assertIn("HF_HUB_OFFLINE=1", str(raised.exception.hint))

    def test_without_the_library_the_stage_says_how_to_get_it(self) -> None:
        volvelle_sdk.write_json(self.folder / "request", {
            "contract": 1, "kind": "data.hub", "node": "n", "key": "0", "seed": 1, "params": DEFAULTS, "inputs": {}, "outputs": {},
            "partial": "p", "events": str(self.folder / "events"), "resources": {"cpu": 1},
        })
        # -S and -E leave out what is installed.
        command = [sys.executable, "-S", "-E", str(HERE / "hub.py"), str(self.folder / "request")]
        self.assertEqual(subprocess.run(command, capture_output=True).returncode, 1)
        event = next(volvelle_sdk.read_jsonl(self.folder / "events"))
        self.assertIn("needs the library `datasets`", event["message"])
        self.assertIn("pip install datasets", event["hint"])

    def test_the_library_itself_reads_a_folder(self) -> None:
        if importlib.util.find_spec("datasets") is None:
            reason = f"{sys.executable} has no datasets"
            print(f"skipped: {self.id()}: {reason}", file=sys.stderr)
            self.skipTest(reason)
        lines = [{"problem": "1 + 1?", "answer": "2", "level": 1}, {"problem": "2 + 2?", "answer": None, "level": 2}]
        (self.folder / "set").mkdir()
        (self.folder / "set/train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

        def load(repo: str, name: Any, split: str, revision: str) -> Any:
            # A folder has no revisions; all else goes to the library as it is.
            return hub.loader()(str(self.folder / "set"), name=name, split=split, cache_dir=str(self.folder / "cache"))

        problems, _ = self.read(load, skip_unanswered=True, meta_fields=["level"])
        self.assertEqual([(p["problem"], p["answer"], p["meta"]) for p in problems], [("1 + 1?", "2", {"level": 1})])
        with self.assertRaisesRegex(Failure, "gsm8k at 740312add88f"):
            self.read(load, split="test")


class ConcatTest(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def start(self, against: List[str], *sets: List[Tuple[str, str]], **params: Any) -> subprocess.CompletedProcess:
        def item(name: str, pairs: List[Tuple[str, str]], label: Any) -> Dict[str, Any]:
            volvelle_sdk.write_jsonl(self.folder / name, [{"version": 1, "id": i, "problem": text, "answer": "1"} for i, text in pairs])
            return {"path": str(self.folder / name), "axes": {}, "label": label}
        request = {
            "contract": 1, "kind": "data.concat", "node": "n", "key": "0", "seed": 1,
            "params": {"num_problems": None, "shuffle": False, "seed": 0, **params},
            "inputs": {
                "problems": [item(f"set{idx}", pairs, f"s{idx}") for idx, pairs in enumerate(sets)],
                "against": [item("against", [(f"t{idx}", text) for idx, text in enumerate(against)], None)],
            },
            "outputs": {name: str(self.folder / name) for name in ("problems", "card")},
            "partial": "p", "events": str(self.folder / "events"), "resources": {"cpu": 1},
        }
        volvelle_sdk.write_json(self.folder / "request", request)
        return subprocess.run([sys.executable, str(HERE / "hub.py"), str(self.folder / "request")], capture_output=True, text=True)

    def ids(self) -> List[str]:
        return [problem["id"] for problem in volvelle_sdk.read_jsonl(self.folder / "problems")]

    def test_each_statement_is_taken_once_and_none_of_the_test_set(self) -> None:
        first = [("a", "Find $x^2$."), ("b", "7 3 4 -> 24"), ("c", "In the test")]
        second = [("d", "find x^2"), ("e", "7 3 4 -> 25"), ("f", "Find $x^3$.")]
        result = self.start(["In  the TEST"], first, second)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.ids(), ["a", "b", "e", "f"])
        card = volvelle_sdk.read_json(self.folder / "card")
        self.assertEqual(card["sources"][0], {"name": "s0", "problems": 3, "repeated": 0, "in_test_set": 1, "taken": 2})
        self.assertEqual(card["sources"][1], {"name": "s1", "problems": 3, "repeated": 1, "in_test_set": 0, "taken": 2})
        self.assertNotIn("_source", next(volvelle_sdk.read_jsonl(self.folder / "problems")))

    def test_a_number_is_taken_from_the_front_or_at_random(self) -> None:
        pairs = [(f"p{idx:02}", f"problem {idx}") for idx in range(30)]
        self.start([], pairs, num_problems=3)
        self.assertEqual(self.ids(), ["p00", "p01", "p02"])
        self.start([], pairs, num_problems=10, shuffle=True)
        drawn = self.ids()
        self.assertEqual(len(set(drawn)), 10)
        self.assertNotEqual(drawn, sorted(drawn))

    def test_an_id_that_means_two_problems_is_refused(self) -> None:
        self.assertEqual(self.start([], [("a", "x")], [("a", "y")]).returncode, 1)
        self.assertEqual(self.start(["x"], [("a", "x")]).returncode, 1)
        messages = [event["message"] for event in volvelle_sdk.read_jsonl(self.folder / "events")]
        self.assertIn("the id 'a' is there twice", messages[0])
        self.assertEqual(messages[1], "no problem is left")


if __name__ == "__main__":
    unittest.main()
