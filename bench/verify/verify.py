#!/usr/bin/env python3
"""Times `volvelle-torch verify` on plain answers, beside math-verify where that is installed. See ../README.md.

    verify.py --program target/release/volvelle-torch
    verify.py --program PATH --pairs 400000 --peer-pairs 2000
"""
import argparse
import json
import pathlib
import random
import resource
import subprocess
import sys
import tempfile
import time


def pairs(count, seed):
    """Plain answers as problem sets have them: (gold, prediction, whether they are the same)."""
    stream = random.Random(seed)
    found = []
    for _ in range(count):
        a, b, same = stream.randrange(2, 999), stream.randrange(2, 99), stream.random() < 0.5
        c = a if same else a + 1
        d = stream.randrange(10, 99)
        found.append(stream.choice([
            (f"{a}", f"{c}", same),
            (f"{a}", f"{c}.0", same),
            (f"-{a}", f"x = -{c}", same),
            (f"{d},{a:03}", f"{d}{c:03}", same and a == c),
            (f"\\frac{{{a}}}{{{b}}}", f"{c}/{b}", same),
            (f"\\frac{{{a}}}{{{b}}}", f"\\dfrac{{{2 * c}}}{{{2 * b}}}", same),
            (f"{a / 4}", f"\\frac{{{c}}}{{4}}", same),
            (f"\\${a}.50", f"{c}.50", same),
            (f"{a}^\\circ", f"{c}", same),
            (f"{a}\\sqrt{{2}}", f"{c} \\sqrt2", same),
            (f"({a}, {b})", f"\\left({c},{b}\\right)", same),
            (f"{a}", f"\\boxed{{{c}}}", same),
        ]))
    return found


def ours(program, rows, repeats):
    """Least CPU time of the program on all rows less its time on one row, and its verdicts."""
    def spent():
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return usage.ru_utime + usage.ru_stime

    with tempfile.TemporaryDirectory() as folder:
        def run(some):
            path = pathlib.Path(folder) / "pairs.jsonl"
            path.write_text("".join(json.dumps({"gold": gold, "pred": pred}) + "\n" for gold, pred, _ in some))
            best, output = None, ""
            for _ in range(repeats):
                start = spent()
                output = subprocess.run([program, "verify", "--input", path], check=True, capture_output=True,
                                        text=True).stdout
                best = min(best or 1e9, spent() - start)
            return best, output
        start_up, _ = run(rows[:1])
        seconds, output = run(rows)
    return max(seconds - start_up, 1e-9), [json.loads(line)["equal"] for line in output.splitlines()]


def math_verify(rows):
    """CPU time of math-verify with its usual settings in one process, and its verdicts; None where it is absent."""
    try:
        from math_verify import parse, verify
    except ImportError:
        return None
    # It reads LaTeX only in delimiters.
    text = lambda answer: f"${answer}$"
    verify(parse("$1$"), parse("$1$"))
    start = time.process_time()
    verdicts = [verify(parse(text(gold)), parse(text(pred))) for gold, pred, _ in rows]
    return time.process_time() - start, verdicts


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", required=True, help="volvelle-torch, built with --release")
    parser.add_argument("--pairs", type=int, default=200_000)
    parser.add_argument("--peer-pairs", type=int, default=1_000, help="pairs for math-verify, which is slower")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rows = pairs(args.pairs, args.seed)
    seconds, verdicts = ours(args.program, rows, args.repeats)
    wrong = sum(verdict != same for verdict, (_, _, same) in zip(verdicts, rows))
    rate = len(rows) / seconds
    print(f"volvelle-torch  {rate:>10,.0f} pairs/s   {wrong} of {len(rows):,} judged wrong")
    peer = math_verify(rows[:args.peer_pairs])
    if peer is None:
        print("math-verify     not installed (pip install math-verify)")
    else:
        seconds, verdicts = peer
        count = len(verdicts)
        wrong_there = sum(verdict != same for verdict, (_, _, same) in zip(verdicts, rows))
        print(f"math-verify     {count / seconds:>10,.0f} pairs/s   {wrong_there} of {count:,} judged wrong")
        print(f"ratio           {rate * seconds / count:>10,.0f}")
    sys.exit(1 if wrong or len(verdicts) == 0 else 0)


if __name__ == "__main__":
    main()
