"""Claims about a model beside its baseline: traits that the loop's own estimator and a stranger both see improved.

Path: differences of a ReportCard -> `claims` -> a table of the card.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rigface.evaluation.metric_registry import Metric
from rigface.evaluation.report_card import ReportCard
from rigface.metrics.statistics import Difference

# Trait -> the loop's number, by which it may be claimed, and the beginnings of the strangers' numbers; the first that
# was measured counts.
EVIDENCE = {
    "pose": (("gain_pose",), ("gain_yaw_",)),
    "expression": (("gain_expression",), ("gain_smile_",)),
    "identity": (("truth_distance", "identity_distance"), ("truth_identity_", "identity_")),
}


@dataclass(frozen=True)
class Claim:
    """One trait of one model and edit beside the baseline."""

    model: str
    edit: str
    trait: str
    in_loop: str  # `better`, `worse`, `unclear`, or `–` if not measured
    strangers: str  # the same, `mixed` if they disagree
    text: str  # `better`, `worse` or `nothing`


def verdict(metric: Metric, difference: Difference) -> str:
    """`better`, `worse`, or `unclear` if the interval holds 0."""
    if not difference.low * difference.high > 0:
        return "unclear"
    return "better" if (difference.mean > 0) == (metric.higher and metric.ideal is None) else "worse"


def claims(card: ReportCard) -> list[Claim]:
    """The claims of every model that is no control, by each edit."""
    by_name, controls = {m.name: m for m in card.metrics}, {r.model for r in card.rows if r.control}
    out = []
    for (model, edit), differences in card.against.items():
        if model in controls:
            continue
        words = {name: verdict(by_name[name], d) for name, d in differences.items()}
        others = {name: word for name, word in words.items() if " by " in by_name[name].extractor}
        for trait, (own, beginnings) in EVIDENCE.items():
            in_loop = next((words[name] for name in own if name in words), "–")
            found = ([w for name, w in others.items() if name.startswith(b)] for b in beginnings)
            strangers = _together(next(filter(None, found), []))
            if (in_loop, strangers) != ("–", "–"):
                agreed = in_loop if in_loop == strangers and in_loop in ("better", "worse") else "nothing"
                out.append(Claim(model, edit, trait, in_loop, strangers, agreed))
    return out


def _together(words: Sequence[str]) -> str:
    return "–" if not words else words[0] if len(set(words)) == 1 else "mixed"
