"""`audit.overlap`: which test problems also occur in the training set.

Three ways, each test problem counted under the first that fits: the same text after normalization; the same words in
another order (the numbers of `7 3 4 -> 24` come in any order, so comparing texts would miss most copies); and a share
of common word runs, which finds copies that were edited. Knows texts only, no model and no verifier.
"""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Set, Tuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "sdk"))

import volvelle_sdk  # noqa: E402  (beside this plugin, not installed)

Words = Tuple[str, ...]


def normalize(text: str) -> Words:
    """Returns a text's words: NFKC, without case, without punctuation at their ends."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    stripped = (word.strip(".,;:!?\"'()[]{}") for word in folded.split())
    return tuple(word for word in stripped if word)


def sorted_form(words: Words) -> Words:
    """Returns the words in sorted order on each side of `->`: what is given stays apart from what is asked for."""
    sides: List[List[str]] = [[]]
    for word in words:
        if word == "->":
            sides.append([])
        else:
            sides[-1].append(word)
    return tuple(word for side in sides for word in [*sorted(side), "->"])


def runs(words: Words, length: int) -> Set[Words]:
    """Returns all runs of so many words; a shorter text is one run."""
    if len(words) <= length:
        return {words} if words else set()
    return {words[i : i + length] for i in range(len(words) - length + 1)}


class TrainingIndex:
    """The training texts, ready to be asked about one test text at a time."""

    def __init__(self, texts: Iterable[Tuple[str, str]], ngram: int) -> None:
        self.ngram = ngram
        self.size = 0
        self.exact: Dict[Words, str] = {}
        self.sorted: Dict[Words, str] = {}
        self.runs: Dict[Words, str] = {}
        for identifier, text in texts:
            self.size += 1
            words = normalize(text)
            self.exact.setdefault(words, identifier)
            self.sorted.setdefault(sorted_form(words), identifier)
            for run in runs(words, ngram):
                self.runs.setdefault(run, identifier)

    def overlap(self, text: str, min_share: float, sorted_words: bool) -> Optional[Dict[str, Any]]:
        """Returns how a test text overlaps with training and with which text, or None."""
        words = normalize(text)
        if words in self.exact:
            return {"match": "exact", "train_id": self.exact[words], "share": 1.0}
        if sorted_words and sorted_form(words) in self.sorted:
            return {"match": "sorted", "train_id": self.sorted[sorted_form(words)], "share": 1.0}
        own = sorted(runs(words, self.ngram))
        found = [run for run in own if run in self.runs]
        share = len(found) / len(own) if own else 0.0
        if found and share >= min_share:
            return {"match": "ngram", "train_id": self.runs[found[0]], "share": share}
        return None


def texts_of(path: Path) -> Iterable[Tuple[str, str]]:
    """Yields the id and the text of each problem, or of each chat: there the first user message."""
    for number, line in enumerate(volvelle_sdk.read_jsonl(path), 1):
        if not isinstance(line, dict):
            raise volvelle_sdk.Failure(f"{path}: value {number} is no problem and no chat, but {type(line).__name__}")
        if isinstance(line.get("problem"), str):
            yield str(line.get("id", number)), line["problem"]
        elif isinstance(line.get("messages"), list):
            asked = [m.get("content") for m in line["messages"] if isinstance(m, dict) and m.get("role") == "user"]
            if not asked or not isinstance(asked[0], str):
                raise volvelle_sdk.Failure(f"{path}: chat {number} has no user message")
            yield str(line.get("problem_id") or number), asked[0]
        else:
            raise volvelle_sdk.Failure(f"{path}: value {number} has neither `problem` nor `messages`")


def audit(job: volvelle_sdk.Job) -> None:
    """Runs the kind."""
    params = job.params
    index = TrainingIndex(texts_of(job.input("train").path), params["ngram"])
    test = list(texts_of(job.input("test").path))
    overlaps: List[Dict[str, Any]] = []
    for done, (identifier, text) in enumerate(test, 1):
        overlap = index.overlap(text, params["min_share"], params["sorted_words"])
        if overlap is not None:
            overlaps.append({"version": 1, "id": identifier, "problem": text, **overlap})
        job.progress(done, len(test), "problem")
    share = len(overlaps) / len(test) if test else 0.0
    counts = {match: sum(o["match"] == match for o in overlaps) for match in ("exact", "sorted", "ngram")}
    report = {"version": 1, "num_train": index.size, "num_test": len(test), "num_overlaps": len(overlaps), "share": share}
    volvelle_sdk.write_json(job.output("report"), {**report, "by_match": counts, "ngram": params["ngram"]})
    volvelle_sdk.write_jsonl(job.output("overlaps"), overlaps)
    job.metric("overlap_share", share)
    limit = params["fail_above"]
    if limit is not None and share > limit:
        example = overlaps[0]
        raise volvelle_sdk.Failure(
            f"{len(overlaps)} of {len(test)} test problems ({share:.1%}) occur in the training set, more than the "
            f"{limit:.1%} that `fail_above` allows; the first is {example['id']!r}, like {example['train_id']!r} in training",
            hint="make the splits disjoint, or raise fail_above",
        )


if __name__ == "__main__":
    volvelle_sdk.main({"audit.overlap": audit})
