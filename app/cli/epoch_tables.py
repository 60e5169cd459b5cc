"""An epoch's result as tables, whatever its era."""

from __future__ import annotations

from typing import Any, Final

from rich.markup import escape
from rich.table import Table

from app.cli.terminal import Console

_LEADERBOARD_ROWS: Final = 10

# The schema of a result with several tracks in each submission.
_WITH_TRACKS: Final = 2


def print_report(report: dict[str, Any], console: Console) -> None:
    """Leaderboards, refusals, warnings and weights of a ``result.json``."""
    weights = report["weights"] or {}
    if report["schema"] == _WITH_TRACKS:
        _print_tracks(report, console)
    else:
        _print_models(report, weights, console)
    refused = [entry for entry in report["submissions"] if entry["status"] == "rejected"]
    _print_refused([(entry["uid"], "", entry["rejection"]) for entry in refused], "Rejected", console)
    for warning in report["warnings"]:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    shares = ", ".join(f"UID {uid}: {share:.4g}" for uid, share in weights.items())
    console.print(f"[bold]Weights:[/] {shares or 'none'}")


def _print_models(report: dict[str, Any], weights: dict[str, float], console: Console) -> None:
    valid = [entry for entry in report["submissions"] if entry["status"] == "valid"]
    targets, antitargets = report["challenge"]["targets"], report["challenge"]["antitargets"]
    console.print(f"\n[bold]Epoch {report['epoch']}[/]: target {', '.join(targets)}, {len(antitargets)} antitargets")
    board = Table(title=f"Leaderboard ({len(valid)} valid)", title_justify="left")
    for name in ("UID", "PSICHIC", "rank", "Boltz-2", "rank", "entropy", "block", "weight"):
        board.add_column(name, justify="right")
    order = sorted(valid, key=lambda entry: (entry["psichic_rank"] or len(valid) + 1, entry["uid"]))
    for entry in order[:_LEADERBOARD_ROWS]:
        board.add_row(
            str(entry["uid"]),
            _shown(entry["psichic_score"]),
            str(entry["psichic_rank"] or "–"),
            _shown(entry["boltz_score"]),
            str(entry["boltz_rank"] or "–"),
            _shown(entry["entropy"]),
            str(entry["block"]),
            _shown(weights.get(str(entry["uid"]))),
        )
    console.print(board)
    if len(order) > _LEADERBOARD_ROWS:
        console.print(f"… and {len(order) - _LEADERBOARD_ROWS} more in the result")


def _print_tracks(report: dict[str, Any], console: Console) -> None:
    challenge = report["challenge"]
    reactions = ", ".join(f"rxn:{name}" if isinstance(name, int) else name for name in challenge["allowed_reactions"])
    console.print(f"\n[bold]Epoch {report['epoch']}[/]: reaction {reactions}")
    refused = []
    for track, targets in challenge["targets"].items():
        entered = [(entry, entry["tracks"][track]) for entry in report["submissions"] if track in entry["tracks"]]
        ranked = sorted(
            ((entry, found["standing"]) for entry, found in entered if found["standing"]),
            key=lambda pair: (pair[1]["rank"] or len(entered) + 1, pair[0]["uid"]),
        )
        board = Table(title=f"{track} against {', '.join(targets)} ({len(ranked)} scored)", title_justify="left")
        for name in ("rank", "UID", "score", "block"):
            board.add_column(name, justify="right")
        board.add_column("what counts")
        for entry, standing in ranked[:_LEADERBOARD_ROWS]:
            first: dict[str, Any] = next(iter(standing["items"]), {})
            board.add_row(
                str(standing["rank"] or "–"),
                str(entry["uid"]),
                _shown(standing["score"]),
                str(entry["block"]),
                escape(str(first.get("smiles") or first.get("sequence") or standing["rejection"]))[:60],
            )
        if (reason := report["unjudged"].get(track)) is not None:
            console.print(f"[bold red]not judged:[/] {escape(reason)}")
        else:
            console.print(board)
        if len(ranked) > _LEADERBOARD_ROWS:
            console.print(f"… and {len(ranked) - _LEADERBOARD_ROWS} more in the result")
        for entry, found in entered:
            verdicts = [found["rejection"], *(item["rejection"] for item in found["items"])]
            distinct = {verdict["message"]: verdict for verdict in verdicts if verdict}
            if entry["status"] == "valid":
                refused += [(entry["uid"], track, verdict) for verdict in distinct.values()]
    _print_refused(refused, "Refused in a submission that stands", console)
    for paid in report["payouts"]:
        console.print(
            f"UID {paid['uid']} won the {paid['track']} track: {paid['share']:.4g} of the epoch's incentive, "
            "paid by the subnet's owner"
        )


def _print_refused(refused: list[tuple[int, str, dict[str, Any]]], title: str, console: Console) -> None:
    if not refused:
        return
    table = Table(title=f"{title} ({len(refused)})", title_justify="left")
    for name in ("UID", "reason", "what happened"):
        table.add_column(name, justify="right" if name == "UID" else "left")
    for uid, track, rejection in refused:
        code = f"{track}: {rejection['code']}" if track else rejection["code"]
        table.add_row(str(uid), code, escape(rejection["message"]))
    console.print(table)


def _shown(value: float | str | None) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4f}"
