"""The records of losses.py, and the tables they make."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from device_clock import Memory, Times
from losses_cases import goals
from losses_check import Error, Errors

_WRONG = 0.1  # beyond what sixteen bits explain


@dataclass
class Record:
    """A row: one contender at one problem."""

    case: str
    loss: str
    labels: str
    contender: str
    gradient: str
    errors: Errors = field(default_factory=dict)
    times: Times | None = None
    memory: Memory | None = None
    reason: str = ""

    @property
    def problem(self) -> tuple[str, str, str]:
        """What it shares with the records it is compared with."""
        return self.case, self.loss, self.labels

    @property
    def worst(self) -> float:
        """The largest error of any output; NaN if nothing was checked."""
        return max((error.largest for error in self.errors.values()), default=float("nan"))

    @property
    def is_wrong(self) -> bool:
        """Whether it computes something else."""
        return any(not error.norm < _WRONG for error in self.errors.values())


def as_json(record: Record) -> dict[str, Any]:
    """With the names of all figures."""
    return {
        **{name: getattr(record, name) for name in ("case", "loss", "labels", "contender", "gradient", "reason")},
        "errors": {name: error._asdict() for name, error in record.errors.items()},
        "times_us": {name: s and s._asdict() for name, s in record.times._asdict().items()} if record.times else None,
        "memory_mib": record.memory._asdict() if record.memory else None,
    }


def figures(records: list[Record], device: str) -> list[str]:
    """A line a record. The ratio is to ours with the same kind of gradient, or with sparse ones if that was not run,
    and is one of replays where there are graphs.
    """
    columns = ["error", "call us", "lowest"]
    if device == "cuda":
        columns = ["error", "call us", "device us", "hot us", "cold us"]
    columns += ["x ours", "MiB", "results"]
    lines = [f"{'case':<6}{'loss':<9}{'labels':<9}{'':<36}" + "".join(f"{column:>10}" for column in columns)]
    for record in records:
        cells = [f"{record.worst:.1e}"]
        if record.times and device == "cuda":
            cells += [f"{s.median:.1f}" if s else "-" for s in record.times]
        elif record.times:
            cells += [f"{record.times.wall.median:.1f}", f"{record.times.wall.lowest:.1f}"]
        if record.times and record.memory:
            kind = {"rows": "ours, row gradients", "dense": "ours, dense"}.get(record.gradient, "ours, sparse")
            own = find(records, record.problem, kind) or find(records, record.problem, "ours, sparse")
            ratio = record.times.best() / own.times.best() if own and own.times else float("nan")
            cells += [f"{ratio:.2f}", *(f"{mib:.0f}" for mib in record.memory)]
        row = f"{record.case:<6}{record.loss:<9}{record.labels:<9}{record.contender:<36}"
        note = ("  WRONG" if record.is_wrong else "") + (f"  {record.reason}" if record.reason else "")
        lines.append(row + "".join(f"{cell:>10}" for cell in cells if record.times) + note)
    return lines


def find(records: list[Record], problem: tuple[str, str, str], contender: str) -> Record | None:
    """One contender's record."""
    return next((r for r in records if r.problem == problem and r.contender == contender), None)


def best_peer(records: list[Record], problem: tuple[str, str, str], gradient: str | None = None) -> Record | None:
    """The fastest that computes the same loss and is not ours, with one kind of gradient or with any."""
    peers = [
        r
        for r in records
        if r.problem == problem and r.times and r.gradient != "full" and not r.is_wrong
        if not r.contender.startswith("ours") and gradient in (None, r.gradient)
    ]
    return min(peers, key=lambda r: r.times.best() if r.times else float("inf"), default=None)


def accuracy(records: list[Record], problem: tuple[str, str, str], dtype: str, limit: float) -> list[str]:
    """Our errors: in float32 beside the limit, in sixteen bits beside those of plain PyTorch, output by output."""
    lines = []
    plain = find(records, problem, "eager, dense")
    for record in records:
        if record.problem != problem or not record.contender.startswith("ours") or not record.errors:
            continue
        if dtype == "float32":
            met = "yes" if record.worst <= limit else "NO"
            lines.append(f"  {record.contender:<22} largest relative error {record.worst:.1e}, <= {limit:.0e}: {met}")
        elif plain and plain.errors:
            pairs = [(name, mine.norm, plain.errors[name].norm) for name, mine in record.errors.items()]
            cells = ", ".join(f"{name} {mine:.1e} against {theirs:.1e}" for name, mine, theirs in pairs)
            met = "yes" if all(mine <= theirs for _, mine, theirs in pairs) else "NO"
            lines.append(f"  {record.contender:<22} norms of errors: {cells}; no worse than plain: {met}")
    return lines


def goal_lines(records: list[Record], floors: dict[tuple[str, str, str], float]) -> list[str]:
    """What was aimed at, beside the replay of ours with sparse gradients; the ratio is to the fastest peer."""
    heads = ["floor us", "rows hot", "hot us", "cold us", "of floor", "must", "stretch", "reached"]
    heads += ["call us", "must", "reached", "MiB", "must", "x dense"]
    lines = [f"{'case':<6}{'loss':<9}{'labels':<9}" + "".join(f"{h:>9}" for h in heads) + "   x best peer"]
    for problem, floor in floors.items():
        own, aim = find(records, problem, "ours, sparse"), goals(*problem[:2])
        if own is None or own.times is None or own.memory is None or aim is None:
            continue
        us, call = own.times.best(), own.times.wall.median
        rows = find(records, problem, "ours, row gradients")
        cells = [f"{floor:.1f}", f"{rows.times.best():.1f}" if rows and rows.times else "-"]
        cells += [f"{s.median:.1f}" if s else "-" for s in (own.times.hot, own.times.cold)]
        cells += [f"{floor / us:.0%}", f"{aim.replay_us.must:g}", f"{aim.replay_us.stretch:g}"]
        cells += [reached(us, *aim.replay_us), f"{call:.0f}"]
        cells += [f"{aim.call_us.must:g}", reached(call, *aim.call_us)] if aim.call_us else ["-", "-"]
        cells += [f"{own.memory.peak:.0f}", f"{aim.peak_mib:.0f}" if aim.peak_mib else "-"]
        dense, dense_peer = find(records, problem, "ours, dense"), best_peer(records, problem, "dense")
        both = dense and dense.times and dense_peer and dense_peer.times
        cells.append(f"{dense_peer.times.best() / dense.times.best():.2f}" if both else "-")  # type: ignore[union-attr]
        peer = best_peer(records, problem)
        theirs = "   -"
        if peer and peer.times:
            ratio = peer.times.best() / us
            verdict = reached(-ratio, -aim.peer.must, -aim.peer.stretch)
            theirs = f"   {ratio:.2f} ({peer.contender}), must {aim.peer.must}, stretch {aim.peer.stretch}: {verdict}"
        lines.append(f"{problem[0]:<6}{problem[1]:<9}{problem[2]:<9}" + "".join(f"{c:>9}" for c in cells) + theirs)
    return lines + nce_lines(records)


def nce_lines(records: list[Record]) -> list[str]:
    """NCE beside softmax: within 10 % of its time is aimed at."""
    lines = []
    for record in records:
        softmax = find(records, (record.case, "softmax", record.labels), "ours, sparse")
        if record.contender == "ours, sparse" and record.loss == "nce" and record.times and softmax and softmax.times:
            ratio = record.times.best() / softmax.times.best()
            met = "yes" if ratio <= 1.1 else "NO"
            lines.append(f"NCE / softmax, {record.case}, {record.labels}: {ratio:.2f}, <= 1.10: {met}")
    return lines


def reached(value: float, must: float, stretch: float) -> str:
    """Which of two upper limits a value keeps."""
    return "stretch" if value <= stretch else "must" if value <= must else "NO"


__all__ = [
    "Error",
    "Record",
    "accuracy",
    "as_json",
    "best_peer",
    "figures",
    "find",
    "goal_lines",
    "nce_lines",
    "reached",
]
