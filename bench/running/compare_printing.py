"""What `recscale compare` prints: a table of what differs, the same as JSON, and as Markdown for a pull request."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from recscale.errors import StoreError
from recscale.measuring.size import format_bytes, format_count, format_seconds
from recscale.records.pairs import VERDICTS, Finding
from recscale.records.regression import counts
from recscale.running.printing import columns

_HEADINGS = ("", "data", "protocol", "model", "figure", "baseline", "candidate", "change", "note")
_MOST_LINES = 200  # of a summary: a comment on a pull request has its limits


def print_findings(findings: Sequence[Finding], *, as_json: bool, with_level: bool) -> None:
    """Print what got worse, what cannot be compared and what got better; what is level only if asked for."""
    if as_json:
        document = {"counts": counts(findings), "findings": findings}
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(document), indent=1).decode() + "\n")
        return
    shown = _shown(findings, with_level=with_level)
    if shown:
        sys.stdout.write(columns(list(_HEADINGS), [_cells(finding) for finding in shown]) + "\n\n")
    sys.stdout.write(_summary(findings) + "\n")


def write_summary(findings: Sequence[Finding], path: Path) -> None:
    """Write a summary in Markdown. Raises StoreError if that cannot be written."""
    shown = _shown(findings, with_level=False)
    lines = [f"### recscale: {_summary(findings)}", ""]
    if shown:
        lines += ["| " + " | ".join(_HEADINGS) + " |", "|" + " :-- |" * len(_HEADINGS)]
        lines += ["| " + " | ".join(map(_escaped, _cells(finding))) + " |" for finding in shown[:_MOST_LINES]]
    if len(shown) > _MOST_LINES:
        lines += ["", f"{len(shown) - _MOST_LINES:,} more are left out here."]
    try:
        path.write_text("\n".join(lines) + "\n")
    except OSError as error:
        raise StoreError(f"the summary cannot be written to {path}: {error.strerror or error}") from None


def _shown(findings: Sequence[Finding], *, with_level: bool) -> list[Finding]:
    """Return the findings to show, the gravest first."""
    kept = [finding for finding in findings if with_level or finding.verdict != "level"]
    return sorted(kept, key=lambda finding: VERDICTS.index(finding.verdict))


def _cells(finding: Finding) -> list[str]:
    change = finding.change
    return [
        finding.verdict,
        finding.dataset,
        finding.protocol,
        finding.job,
        finding.quantity,
        written(finding.baseline, finding.unit),
        written(finding.candidate, finding.unit),
        share(change),
        finding.note,
    ]


def written(value: float | None, unit: str) -> str:
    """Return a figure in its unit; nothing for None."""
    if value is None:
        return ""
    if unit == "bytes":
        return format_bytes(int(value))
    if unit == "seconds":
        return format_seconds(value)
    return f"{value:.4f}" if unit == "score" else format_count(value)


def share(change: float | None) -> str:
    """Return a change as a share of what was, such as `-2 %`; nothing for None."""
    return "" if change is None else f"{100 * change:+.3g} %" if change else "0 %"


def _summary(findings: Sequence[Finding]) -> str:
    """Return one line: how many jobs and figures were compared, and what came of it."""
    found = counts(findings)
    jobs = {(f.dataset, f.protocol, f.job) for f in findings if f.quantity != "run"}
    parts = [f"{found[verdict]:,} {verdict}" for verdict in VERDICTS if found[verdict]]
    outcome = "something got worse" if found["worse"] else "nothing got worse"
    return f"{outcome}: {len(jobs):,} job{'s' * (len(jobs) != 1)} compared; {', '.join(parts) or 'no figures'}"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("|", "\\|").replace("`", "\\`").replace("\n", " ")
