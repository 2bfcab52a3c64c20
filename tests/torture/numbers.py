"""Reproducibility: a second run, another number of threads, and comparison with pycocoevalcap."""

import csv
import random
from dataclasses import astuple
from pathlib import Path

import pytest

from captionlab.metrics.scorer import Scorer
from coco import coco_scores
from torture.project import Project, import_stages
from torture.tally import Tally

PART = "The same numbers"
TOLERANCE = 0.01  # relative, of losses: threads sum in another order
_WORDS = "a the dog dogs two man in red on grass runs with ball sits near water . , b".split()


def numbers(folder: Path, sets: int, *, short: bool) -> list[Tally]:
    """Run the stages twice, train with two threads, and score random captions."""
    scorer = Tally(part=PART, fault="strict scorer against pycocoevalcap, random caption sets")
    for seed in range(sets):
        ours, theirs = _score_with_both(random.Random(seed))
        scorer.check(ours == pytest.approx(theirs, abs=1e-9), f"set {seed}: {ours}, not {theirs}")
    if short:
        return [scorer]
    import_stages()
    project = Project(folder / "twice")
    again = Tally(part=PART, fault="second run: the same bytes")
    threads = Tally(part=PART, fault=f"two threads: losses within {TOLERANCE:.0%}")
    for stage in project.stages:
        project.run_checked(stage)
        expected = project.outs(stage)
        if stage != ("track",):
            project.clear(stage)
            project.run_checked(stage)
            again.check(project.outs(stage) == expected, f"{stage} gives other bytes")
        if stage[0].startswith("train_"):
            history = project.folder / "artifacts/models" / stage[0].removeprefix("train_") / stage[1] / "history.csv"
            one = _losses(history)
            project.clear(stage)
            ended = project.run(stage, prepare=_two_threads)
            two = _losses(history)
            threads.check(ended.code == 0 and two == pytest.approx(one, rel=TOLERANCE), f"{stage}: {one} and {two}")
            project.clear(stage)
            project.run_checked(stage)
    return [again, threads, scorer]


def _losses(history: Path) -> list[float]:
    with history.open(newline="") as rows:
        return [float(row[key]) for row in csv.DictReader(rows) for key in ("train_loss", "val_loss")]


def _two_threads() -> None:
    import torch

    torch.set_num_threads(2)


def _score_with_both(rng: random.Random) -> tuple[list[float], list[float]]:
    words = _WORDS[: rng.randint(3, len(_WORDS))]

    def caption(min_words: int) -> str:
        return " ".join(word for word in rng.choices(words, k=rng.randint(min_words, 14)) if word.isalpha()) or "a"

    images = [f"{number}.jpg" for number in range(rng.randint(1, 12))]
    references = {image: [caption(1) for _ in range(rng.randint(1, 6))] for image in images}
    hypotheses = {image: caption(1) for image in images}
    # So that n-grams of every order match: without a match, pycocoevalcap's BLEU is not exactly zero.
    references["match"] = ["the dog runs near water with two dogs"]
    hypotheses["match"] = references["match"][0]
    bleus, rouge_l, cider = coco_scores(references, hypotheses)
    ours = astuple(Scorer(references).score(hypotheses))[:6]
    return list(ours), [*bleus, rouge_l, cider]
