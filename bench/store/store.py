#!/usr/bin/env python3
"""Times what the store does with a large folder, beside cp, b3sum and DVC. See ../README.md.

    store.py                            2 GiB in a few large and 2,000 small files, then 20,000 small files
    store.py --folders large --gib 0.5  a smaller one

Engines take turns on one folder. Everything lies in --scratch, which has to have five times the size free, and is
removed at the end.
"""
import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

import lanes
import section

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(1, str(HERE.parent / "engine"))
import run as engine  # noqa: E402  (the engine benchmark: what it says about machine and disk)

FOLDERS = {"large": "4 files of weights and 2,000 small files", "many": "20,000 small files"}
MANY_BYTES = 4096      # of each file of the folder of many


def make_folder(kind, folder, gib):
    """Fills a folder with bytes that nothing can compress or share; returns its size and number of files."""
    total = int(gib * 2**30)
    sizes = {"large": {**{f"model-{idx}.safetensors": total * 22 // 100 for idx in range(4)},
                       **{f"steps/{idx // 100:02}/{idx:04}.json": total * 12 // 100 // 2000 for idx in range(2000)}},
             "many": {f"{idx // 200:02}/{idx:05}.json": MANY_BYTES for idx in range(20_000)}}[kind]
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            while size > 0:
                size -= file.write(os.urandom(min(size, 16 << 20)))
    return sum(sizes.values()), len(sizes)


def measure(kind, options, names):
    """Lets every lane do everything once a turn; returns the samples."""
    scratch = options.scratch / kind
    shutil.rmtree(scratch, ignore_errors=True)
    data = scratch / "data"
    data.mkdir(parents=True)
    size, files = make_folder(kind, data, options.gib)
    os.sync()
    done = {"at": time.strftime("%Y-%m-%d %H:%M"), "bytes": size, "files": files, "loads": [], "samples": {},
            "fsync_ms": engine.fsync_ms(scratch)}
    try:
        for turn in range(options.turns):
            print(f"== {kind}, turn {turn + 1} of {options.turns}, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
            done["loads"].append(os.getloadavg()[0])
            for name in names if turn % 2 == 0 else reversed(names):
                lane = lanes.ALL[name](options, data, scratch / name)
                for what, seconds in lane.turn():
                    done["samples"].setdefault(name, {}).setdefault(what, []).append(seconds)
    finally:
        remove(scratch)
    done["lanes"] = {name: {what: {"median": statistics.median(times), "least": min(times), "runs": len(times)}
                            for what, times in samples.items()} for name, samples in done["samples"].items()}
    return done


def remove(folder):
    """Removes a folder with all in it, read-only folders too."""
    subprocess.run(["chmod", "-R", "u+w", str(folder)], check=False, stderr=subprocess.DEVNULL)
    shutil.rmtree(folder, ignore_errors=True)


def main():
    options = arguments()
    names = [name for name in lanes.ALL if lanes.ALL[name].is_there(options)]
    missing = [name for name in lanes.ALL if name not in names]
    if "volvelle" in missing:
        sys.exit(f"{options.volvelle} is missing: run `cargo build --release --package volvelle`")
    machine = engine.machine(options)
    results = {"machine": machine, "missing": missing, "gib": options.gib, "turns": options.turns, "folders": {},
               "versions": {name: lanes.ALL[name].version(options) for name in names}}
    for kind in options.folders:
        results["folders"][kind] = {"title": FOLDERS[kind], **measure(kind, options, names)}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    text = section.write(results)
    print(text)
    if options.report:
        section.put_into(options.report, text)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folders", default=",".join(FOLDERS), help=f"default: {','.join(FOLDERS)}")
    parser.add_argument("--gib", type=float, default=2, help="size of the folder `large`")
    parser.add_argument("--turns", type=int, default=5, help="how often everything is done")
    parser.add_argument("--volvelle", type=pathlib.Path, default=ROOT / "target/release/volvelle")
    parser.add_argument("--tools", type=pathlib.Path, default=ROOT / "target/bench/tools")
    parser.add_argument("--scratch", type=pathlib.Path, default=ROOT / "target/bench/store",
                        help="where everything lies while it is measured; a disk, not memory")
    parser.add_argument("--json", type=pathlib.Path, default=ROOT / "target/bench/store.json")
    parser.add_argument("--report", type=pathlib.Path, help="a report whose section about the store is replaced")
    options = parser.parse_args()
    options.folders = options.folders.split(",")
    for name in set(options.folders) - set(FOLDERS):
        parser.error(f"--folders: unknown {name}; known: {', '.join(FOLDERS)}")
    options.volvelle, options.tools, options.scratch = (
        path.resolve() for path in (options.volvelle, options.tools, options.scratch))
    # What the engine benchmark's description of the machine reads, and has no meaning here.
    options.limit = options.cold_limit = 0
    return options


if __name__ == "__main__":
    main()
