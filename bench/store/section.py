"""The section of a report that store.py writes: the goals first, then a table for each folder. Pure but for `put_into`."""
HEADING = "# Store benchmark"
COLUMNS = ["commit", "no-op", "restore by link", "restore as a copy", "rehash", "write"]

NOT_MEASURED = """Not measured: a cold page cache (the machine's other users need it), reflinks (ext4 has none), network
filesystems, the memory of the programs, and `git-annex`, `git-lfs` or `restic`. DVC commits with MD5 and hard links, flushes
nothing, and its times hold the start of Python. `cp` and `b3sum` keep no records."""


def seconds(value):
    if value < 0.9995:
        return f"{value * 1e3:.{1 if value < 0.01 else 0}f} ms"
    return f"{value:.2f} s"


def cell(figures):
    return f"{seconds(figures['median'])} ({seconds(figures['least'])})" if figures else "-"


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head),
            *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]


def goals(folders):
    """Returns rows of goal, what was measured, and whether it is met; of the folder that the goals are about."""
    if "large" not in folders:
        return []
    lanes = folders["large"]["lanes"]

    def median(lane, what):
        return lanes.get(lane, {}).get(what, {}).get("median")

    ours, written, hashed = median("volvelle", "commit"), median("cp", "write"), median("b3sum", "rehash")
    rows = []
    if written and hashed:
        ratio = ours / max(written, hashed)
        rows.append(["commit: at most 1.15 times the longer of b3sum and one write that reaches the disk",
                     f"{ratio:.2f} times ({seconds(ours)}; b3sum {seconds(hashed)}, write {seconds(written)})", ratio <= 1.15])
    for what, most in (("no-op", 0.020), ("restore by link", 0.050)):
        figure = median("volvelle", what)
        rows.append([f"{what}: under {seconds(most)}, the start of the program included", seconds(figure), figure < most])
    return [[goal, told, "met" if met else "**not met**"] for goal, told, met in rows]


def write(results):
    """Returns the whole section."""
    machine = results["machine"]
    lines = [HEADING, "",
             "Written by `bench/store/store.py`; [README.md](README.md) says what the figures mean.", "",
             f"- {machine['date']}, commit {machine['commit']}; {machine['cpu']}, {machine['cores']} cores, "
             f"{machine['memory_gb']} GB, {machine['kernel']}, on {machine['filesystem']}",
             "- " + ", ".join(f"{name}: {version}" for name, version in results["versions"].items()), ""]
    if results["missing"]:
        lines += [f"Not installed: {', '.join(results['missing'])}.", ""]
    rows = goals(results["folders"])
    if rows:
        lines += ["## Goals of the store", "", *table(["goal", "measured", "verdict"], rows)]
    for done in results["folders"].values():
        loads = done["loads"]
        lines += [f"## {done['bytes'] / 2**30:.2f} GiB: {done['title']}", "",
                  f"{done['at']}; load {min(loads):.1f} to {max(loads):.1f}, {len(loads)} turns; a small durable write takes "
                  f"{done['fsync_ms']} ms. Wall time median (least).", ""]
        lines += table(["program", *COLUMNS], [[name, *(cell(lane.get(what)) for what in COLUMNS)]
                                               for name, lane in done["lanes"].items()])
    return "\n".join([*lines, NOT_MEASURED, ""])


def put_into(path, text):
    """Replaces the section about the store in a report, or adds it at the end; what others wrote behind it stays."""
    before, _, old = (path.read_text(encoding="utf-8") if path.exists() else "").partition(HEADING)
    _, mark, behind = old.partition("<!-- serve:")
    parts = [before.rstrip(), text.strip(), (mark + behind).strip()]
    path.write_text("\n\n".join(filter(None, parts)) + "\n", encoding="utf-8")
