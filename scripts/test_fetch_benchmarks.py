"""fetch-benchmarks.py against a server on this machine: conversion, going on after a cut, hashes."""
import hashlib
import http.server
import importlib.util
import json
import pathlib
import tempfile
import threading
import unittest

HERE = pathlib.Path(__file__).resolve().parent
SPEC = importlib.util.spec_from_file_location("fetch_benchmarks", HERE / "fetch-benchmarks.py")
fetch_benchmarks = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(fetch_benchmarks)
Benchmark, FetchError = fetch_benchmarks.Benchmark, fetch_benchmarks.FetchError


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; of the first answer to each path in `server.cut` only so many bytes."""

    def do_GET(self):
        server = self.server
        begins = int((self.headers.get("Range") or "bytes=0-")[len("bytes="):-1])
        server.asked.append((self.path, begins))
        body = server.files.get(self.path)
        if body is None:
            return self.send_error(404)
        if begins >= len(body) and begins:
            return self.send_error(416)
        self.send_response(206 if begins else 200)
        self.send_header("Content-Length", str(len(body) - begins))
        self.end_headers()
        self.wfile.write(body[begins:][:server.cut.pop(self.path, len(body))])

    def log_message(self, *_):
        pass


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def written(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


class FetchTest(unittest.TestCase):
    def setUp(self):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.files, self.server.cut, self.server.asked = {}, {}, []
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name) / "data"

    def serve(self, path, body):
        self.server.files[path] = body
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def gsm8k(self, expected, file="set.jsonl"):
        source = [{"question": " How  many\u200b\r\nare they? ", "answer": "1 + 2 = <<1+2=3>>3\u00e9\n#### 1,003"}]
        url = self.serve("/test.jsonl", lines(source))
        sha256 = hashlib.sha256(written(expected)).hexdigest()
        return Benchmark(file, (url,), fetch_benchmarks.gsm8k("test"), sha256)

    ROWS = [{"id": "gsm8k-test-00001", "problem": "How  many\nare they?", "answer": "1003",
             "solution": "1 + 2 = 3\u00e9", "source": "GSM8K test"}]

    def test_a_set_is_converted_checked_and_not_fetched_twice(self):
        benchmark = self.gsm8k(self.ROWS)
        self.assertEqual(fetch_benchmarks.fetch(benchmark, self.out, 0), "1 problems")
        self.assertEqual((self.out / "set.jsonl").read_bytes(), written(self.ROWS))
        self.assertEqual([path.name for path in self.out.iterdir()], ["set.jsonl"])
        self.assertEqual(fetch_benchmarks.fetch(benchmark, self.out, 0), "is there")
        self.assertEqual(len(self.server.asked), 1)

    def test_packed_sets_are_the_same_file_each_time(self):
        benchmark = self.gsm8k(self.ROWS, "set.jsonl.gz")
        fetch_benchmarks.fetch(benchmark, self.out, 0)
        first = (self.out / "set.jsonl.gz").read_bytes()
        (self.out / "set.jsonl.gz").unlink()
        fetch_benchmarks.fetch(benchmark, self.out, 0)
        self.assertEqual((self.out / "set.jsonl.gz").read_bytes(), first)
        self.assertEqual(fetch_benchmarks.fetch(benchmark, self.out, 0), "is there")

    def test_a_download_that_was_cut_goes_on(self):
        benchmark = self.gsm8k(self.ROWS)
        self.server.cut["/test.jsonl"] = 20
        fetch_benchmarks.fetch(benchmark, self.out, 0)
        self.assertEqual(self.server.asked, [("/test.jsonl", 0), ("/test.jsonl", 20)])
        # What a killed process left is all there: the server says so, and nothing is sent twice.
        (self.out / "set.jsonl").unlink()
        (self.out / ".set.jsonl.0.part").write_bytes(self.server.files["/test.jsonl"])
        fetch_benchmarks.fetch(benchmark, self.out, 0)
        self.assertEqual((self.out / "set.jsonl").read_bytes(), written(self.ROWS))

    def test_what_is_not_as_it_was_leaves_no_file(self):
        benchmark = self.gsm8k([])
        with self.assertRaisesRegex(FetchError, "SHA-256"):
            fetch_benchmarks.fetch(benchmark, self.out, 0)
        self.assertEqual(list(self.out.iterdir()), [])
        gone = benchmark._replace(urls=(benchmark.urls[0] + "x",))
        with self.assertRaisesRegex(FetchError, "404"):
            fetch_benchmarks.fetch(gone, self.out, 0)
        # A page in the place of the data, as a proxy may send with status 200; the right answer later is taken.
        self.server.files["/test.jsonl"] = b"<html>Sign in</html>"
        with self.assertRaisesRegex(FetchError, "not JSON Lines"):
            fetch_benchmarks.fetch(benchmark, self.out, 0)
        self.assertEqual(list(self.out.iterdir()), [])
        good = self.gsm8k(self.ROWS)
        fetch_benchmarks.fetch(good, self.out, 0)
        (self.out / "set.jsonl").unlink()
        other = benchmark._replace(convert=fetch_benchmarks.math500)
        with self.assertRaisesRegex(FetchError, "not as it was"):
            fetch_benchmarks.fetch(other, self.out, 0)
        (self.out / "set.jsonl").write_text("mine")
        with self.assertRaisesRegex(FetchError, "move it away"):
            fetch_benchmarks.fetch(benchmark, self.out, 0)
        self.assertEqual((self.out / "set.jsonl").read_text(), "mine")

    def test_contests_are_in_their_order_with_plain_answers(self):
        page = "https://example.org/index.php/2023_AMC_12{}_Problems/Problem_{}"
        rows = [{"id": 1, "question": "b", "answer": 36.0, "url": page.format("B", 3)},
                {"id": 0, "question": "a", "answer": -1.0, "url": page.format("A", 10)}]
        found = fetch_benchmarks.BENCHMARKS["amc23"].convert([rows])
        self.assertEqual([(row["id"], row["answer"]) for row in found], [("amc23-12A-10", "-1"), ("amc23-12B-03", "36")])
        rows = [{"problem": "\frac12", "answer": "025", "url": "x/2024_AIME_II_Problems/Problem_7"}]
        found = fetch_benchmarks.BENCHMARKS["aime24"].convert([rows])
        self.assertEqual(found, [{"id": "aime24-II-07", "problem": "\\frac12", "answer": "25", "source": "AIME 2024"}])
        rows = [{"question": "q", "answer": "336^\\circ"}], [{"question": "r", "answer": 7}]
        found = fetch_benchmarks.BENCHMARKS["aime25"].convert(rows)
        self.assertEqual([(row["id"], row["answer"]) for row in found], [("aime25-I-01", "336"), ("aime25-II-01", "7")])
        with self.assertRaisesRegex(FetchError, "not a page"):
            fetch_benchmarks.BENCHMARKS["aime24"].convert([[{"problem": "p", "answer": "1", "url": "x"}]])

    def test_math_is_named_by_its_original_file(self):
        row = {"problem": "p", "solution": "s", "answer": "\\frac{1}{2}", "subject": "Algebra", "level": 2,
               "unique_id": "test/algebra/1.json"}
        found = fetch_benchmarks.math500([[row]])
        self.assertEqual(list(found[0].items())[:3], [("id", "math500-algebra-1"), ("problem", "p"), ("answer", "\\frac{1}{2}")])


if __name__ == "__main__":
    unittest.main()
