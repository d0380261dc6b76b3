#!/usr/bin/env python3
"""Get the problem sets of the evaluation: MATH-500, AIME 2024 and 2025, AMC 2023, and GSM8K with its training set.

    python3 scripts/fetch-benchmarks.py [NAME ...] [--out DIR]      default: all, into data/ in the project

Downloads each set from where it is published, at a pinned revision, and writes it as DIR/NAME.jsonl (gsm8k_train as
.jsonl.gz), one object a line with the keys `id`, `problem`, `answer`, and where the source has them `solution`, `level`,
`subject`; and `source`. That is what the kind `data.benchmark` reads. The SHA-256 of what was written must be the one
in this script: a source that changed, or a download that went wrong, leaves no file. What is there already with the
right hash is not fetched again, and a download that was cut short goes on where it stopped.

| name | source | licence |
| --- | --- | --- |
| math500 | ZubinGou/math-evaluation-harness (PRM800K's split of hendrycks/math) | MIT |
| aime24, amc23 | QwenLM/Qwen2.5-Math, evaluation data | statements are the MAA's |
| aime25 | opencompass/AIME2025 on the Hugging Face hub | statements are the MAA's |
| gsm8k_test, gsm8k_train | openai/grade-school-math | MIT |

What is changed: outer white space, line ends, tabs and zero-width characters; a form feed, which is what is left of
`\\f` in `\\frac` where a backslash was lost, becomes `\\f` again; answers of contests become plain integers; GSM8K's
calculator marks `<<...>>` go, and its answer is what follows `####`. The data are for research; none of them is part of
this project. Needs Python >= 3.9 and nothing else.
"""
import argparse
import gzip
import hashlib
import json
import pathlib
import re
import sys
import time
import urllib.error
import urllib.request
from typing import Callable, NamedTuple, Tuple

GITHUB = "https://raw.githubusercontent.com/"
HUB = "https://huggingface.co/datasets/"
QWEN = GITHUB + "QwenLM/Qwen2.5-Math/a45202bd16f1ec06f433442dc1152d0074773465/evaluation/data/"
GSM8K = GITHUB + "openai/grade-school-math/3101c7d5072418e28b9008a6636bde82a006892c/grade_school_math/data/"
AIME25 = HUB + "opencompass/AIME2025/resolve/a6ad95f611d72cf628a80b58bd0432ef6638f958/"
MATH = GITHUB + "ZubinGou/math-evaluation-harness/db77bc6bb2a17c90ed2d63e88ebd8c40a82858c5/data/math_oai/"

ATTEMPTS = 4
TIMEOUT_S = 60


class FetchError(Exception):
    """What a user can act on."""


class Benchmark(NamedTuple):
    file: str  # in the output folder
    urls: Tuple[str, ...]
    convert: Callable  # list of rows for each URL -> rows
    sha256: str  # of the lines, unpacked


# ------------------------------------------------------------------ conversion

def clean(text):
    text = text.replace("\r\n", "\n").replace("\t", " ").replace("\f", "\\f")
    return re.sub("[\u200b\u200c\u200d\u2060\ufeff]", "", text).strip()


def integer(answer):
    """`025`, `27.0`, `336^\\circ` and JSON numbers as a plain integer."""
    text = str(answer).strip().strip("$")
    number = float(re.sub(r"\s*\^\\circ$", "", text))
    if number != int(number):
        raise FetchError(f"the answer {answer!r} is no integer")
    return str(int(number))


def math500(files):
    rows = []
    for row in files[0]:
        _, subject, number = row["unique_id"].removesuffix(".json").split("/")
        rows.append({
            "id": f"math500-{subject}-{number}", "problem": clean(row["problem"]), "answer": clean(row["answer"]),
            "solution": clean(row["solution"]), "level": int(row["level"]), "subject": row["subject"],
            "source": "MATH-500"})
    return rows


def contest(slug, source, page):
    """Rows with the page of the contest's wiki that a problem is from, put into the contest's order."""
    def convert(files):
        rows = []
        for row in files[0]:
            found = re.search(page + r"_Problems/Problem_(\d+)", row["url"])
            if found is None:
                raise FetchError(f"{row['url']!r} is not a page of {source}")
            paper, number = found[1], int(found[2])
            rows.append({"id": f"{slug}-{paper}-{number:02}", "problem": clean(row.get("problem") or row["question"]),
                         "answer": integer(row["answer"]), "source": source})
        return sorted(rows, key=lambda row: row["id"])
    return convert


def aime25(files):
    return [{"id": f"aime25-{paper}-{number:02}", "problem": clean(row["question"]),
             "answer": integer(row["answer"]), "source": "AIME 2025"}
            for paper, rows in zip(("I", "II"), files) for number, row in enumerate(rows, 1)]


def gsm8k(split):
    def convert(files):
        rows = []
        for number, row in enumerate(files[0], 1):
            solution, answer = row["answer"].rsplit("####", 1)
            rows.append({"id": f"gsm8k-{split}-{number:05}", "problem": clean(row["question"]),
                         "answer": answer.strip().replace(",", ""),
                         "solution": clean(re.sub("<<.*?>>", "", solution)), "source": f"GSM8K {split}"})
        return rows
    return convert


BENCHMARKS = {
    "math500": Benchmark(
        "math500.jsonl", (MATH + "test.jsonl",), math500,
        "dd6aec45b506a194cae92e6cf34e48185ab5b4906d1ad6bf0817aff8b5acffd3"),
    "aime24": Benchmark(
        "aime24.jsonl", (QWEN + "aime24/test.jsonl",), contest("aime24", "AIME 2024", "2024_AIME_(I+)"),
        "ac3633b7d884c3f54593edcb96b23d181d341dd8f3af0beb89bc0accac006b84"),
    "aime25": Benchmark(
        "aime25.jsonl", (AIME25 + "aime2025-I.jsonl", AIME25 + "aime2025-II.jsonl"), aime25,
        "b3c5f6e3ba9d27cab233e437334d6172ac9be9518794e1b76f7c3842c1d0f9a6"),
    "amc23": Benchmark(
        "amc23.jsonl", (QWEN + "amc23/test.jsonl",), contest("amc23", "AMC 2023", "2023_AMC_(12[AB])"),
        "43b2341fb61e9054ecc6a6ea1df2b5e80cf6e2a0e92864520b0237f25546e5e3"),
    "gsm8k_test": Benchmark(
        "gsm8k_test.jsonl", (GSM8K + "test.jsonl",), gsm8k("test"),
        "bfbef5e2bb555aee2958becdf2fcb4e32e3bb60cd166a8583bfc15357dedb049"),
    "gsm8k_train": Benchmark(
        "gsm8k_train.jsonl.gz", (GSM8K + "train.jsonl",), gsm8k("train"),
        "4ba5916d44c4271330ab16dad38593d3ecb20fb61b1050d9e5c66a9283668f96"),
}


# -------------------------------------------------------------------- download

def request(url, part):
    """Appends to part what is missing of url; returns whether the server says that this is all."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "volvelle-fetch-benchmarks"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # nothing is missing
            return True
        raise
    with response:
        goes_on = response.status == 206
        expected = response.headers.get("Content-Length")
        got = 0
        with open(part, "ab" if goes_on else "wb") as file:
            while block := response.read(1 << 16):
                file.write(block)
                got += len(block)
        return expected is None or got == int(expected)


def download(url, part, wait_s):
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(wait_s * 2 ** attempt)
        try:
            if request(url, part):
                return part.read_bytes()
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in (408, 429):
                raise FetchError(f"{url}: {error}") from error
            reason = error
        except OSError as error:
            reason = error
    raise FetchError(f"{url}: {reason}; what came is kept, and a further attempt goes on from there")


def parse(url, raw):
    try:
        # Not splitlines: statements may hold line separators that JSON leaves as they are.
        return [json.loads(line) for line in raw.decode("utf-8").split("\n") if line.strip()]
    except ValueError as error:
        raise FetchError(f"{url}: not JSON Lines ({error})") from error


# ------------------------------------------------------------------- the files

def read_lines(path):
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def is_there(path, sha256):
    try:
        return hashlib.sha256(read_lines(path)).hexdigest() == sha256
    except (OSError, EOFError):
        return False


def fetch(benchmark, out, wait_s=1.0):
    """Writes a benchmark's file; returns what was done, in a word or two."""
    path = out / benchmark.file
    if is_there(path, benchmark.sha256):
        return "is there"
    if path.exists():
        raise FetchError(f"{path} exists and is not what this script writes; move it away first")
    out.mkdir(parents=True, exist_ok=True)
    parts = [out / f".{benchmark.file}.{idx}.part" for idx in range(len(benchmark.urls))]
    raw = [download(url, part, wait_s) for url, part in zip(benchmark.urls, parts)]
    try:
        rows = benchmark.convert([parse(url, data) for url, data in zip(benchmark.urls, raw)])
    except FetchError:
        # The server says that this is all, so a further attempt would go on from what can't be right.
        discard(parts)
        raise
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        discard(parts)
        raise FetchError(f"{benchmark.urls[0]} is not as it was: {error!r}") from error
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    got = hashlib.sha256(lines).hexdigest()
    if got != benchmark.sha256:
        discard(parts)
        raise FetchError(f"{benchmark.urls[0]}: the problems have SHA-256 {got}, expected {benchmark.sha256}; "
                         "the source is not as it was, or the download went wrong")
    building = path.with_name(f".{path.name}.new")
    # Without a time in it, so that the same lines are the same file.
    building.write_bytes(gzip.compress(lines, mtime=0) if path.suffix == ".gz" else lines)
    building.replace(path)
    discard(parts)
    return f"{len(rows)} problems"


def discard(parts):
    for part in parts:
        part.unlink(missing_ok=True)


def main():
    parser = argparse.ArgumentParser(description="The problem sets of the evaluation, from where they are published")
    parser.add_argument("names", metavar="NAME", nargs="*", help=", ".join(BENCHMARKS))
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent / "data")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in BENCHMARKS]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; known: {', '.join(BENCHMARKS)}")
    failed = False
    for name in args.names or BENCHMARKS:
        try:
            print(f"{args.out / BENCHMARKS[name].file}: {fetch(BENCHMARKS[name], args.out)}", flush=True)
        except FetchError as error:
            failed = True
            print(f"fetch-benchmarks: {name}: {error}", file=sys.stderr)
    sys.exit(failed)


if __name__ == "__main__":
    main()
