"""Another commit against this working tree: the same exam in turns, ratios with their spread.

The other commit is checked out into a temporary folder; both run in processes of their own.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contest import ROOT, Contestant, hold, stages, standard_file, summary, without_stages
from benchmarks.done import Rows
from benchmarks.exam import contest_arguments, how_arguments, with_size
from benchmarks.record import conditions, source_tree, write_csv, write_json
from benchmarks.table import Table
from scanside.bench.machine import Counters, slowdowns
from scanside.errors import EngineError, UsageError

HERE, THERE = "here", "there"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What the comparison takes."""
    parser.add_argument("revision", metavar="REV", help="the other commit")
    contest_arguments(parser)
    how_arguments(parser)


def minutes(given: Mapping[str, Any]) -> float:
    """Roughly, from the seconds of a standard exam on two idle cores."""
    share = given["shape"][0] * given["shape"][1] * given["shape"][2] / (318 * 600 * 800)
    return 1 + 2 * (given["rounds"] + 1) * 20 * share / 60


def make_table(
    out: Path,
    pack: Path | None,
    revision: str,
    shape: tuple[int, int, int],
    seed: int,
    rounds: int,
    threads: int,
    work: Path,
    **how: Any,
) -> None:
    """Write compare-<commit>.csv, its stages and its record into `out`; above 1, a ratio says this tree is faster."""
    commit = commit_of(revision)
    made_with = {**how, "commit": commit, "tree": source_tree(), "shape": shape, "seed": seed, "threads": threads}
    exam = standard_file(shape, seed, work)
    name = with_size(f"compare-{commit[:10]}", shape)
    rows = Rows(out / f"{name}-rounds.csv", ("round", "contestant"), made_with)
    before = Counters.read()
    with checked_out(commit) as folder:
        contestants = [Contestant(HERE, "scanside", how), Contestant(THERE, "scanside", how, folder)]
        outcome = hold(contestants, rows, exam=exam, pack=pack, threads=threads, rounds=rounds, least_score=None)
    table = summary(outcome, HERE)
    write_csv(out / f"{name}.csv", table)
    write_csv(out / f"{name}-stages.csv", stages(outcome, (HERE, THERE)))
    write_json(
        out / f"{name}.json",
        {
            **conditions(),
            **made_with,
            "slowdowns": slowdowns(before, Counters.read()),
            "contestants": dict(outcome.about),
        },
    )
    rows.finish(without_stages(rows.rows))
    there = next(row for row in table if row["contestant"] == THERE)
    print(
        f"{commit[:10]} takes {there['ratio_median']:.3f} times as long as this tree "
        f"({there['ratio_low']:.3f} to {there['ratio_high']:.3f} over {there['rounds']} rounds)"
    )


def commit_of(revision: str) -> str:
    """The full hash of a revision.

    Raises
    ------
    UsageError
        There is none of that name, or no repository here.
    """
    done = _git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
    if done.returncode != 0:
        raise UsageError("no such commit", found=repr(revision), remedy="name a branch, a tag or a hash")
    return done.stdout.strip()


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder that holds the files of `commit`, gone afterwards.

    Raises
    ------
    EngineError
        git cannot check it out.
    """
    with tempfile.TemporaryDirectory(prefix="scanside-compare-") as parent:
        folder = Path(parent) / "tree"
        done = _git("worktree", "add", "--detach", str(folder), commit)
        if done.returncode != 0:
            raise EngineError("the commit cannot be checked out", where=commit[:10], found=done.stderr.strip()[-300:])
        try:
            yield folder
        finally:
            _git("worktree", "remove", "--force", str(folder))


def _git(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)


TABLE = Table("compare", "another commit against this working tree", make_table, minutes, arguments, needs="REV")
