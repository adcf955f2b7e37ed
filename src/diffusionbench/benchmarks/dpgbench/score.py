"""DPG-Bench and DSG-1k over answers to their questions, and the two published readings of DPG-Bench's table.

Both published readers skip the first row of the table, so that its question is a parent that nobody knows.
"""

from __future__ import annotations

from diffusionbench.metrics.checklist import ChecklistMetric
from diffusionbench.sample import Sample


class Questions(ChecklistMetric):
    """Every row of the table and every image count."""


class QuestionsUpstream(ChecklistMetric):
    """The first row is skipped; a parent that is not known counts as answered yes."""

    def chosen(self, sample: Sample) -> range | None:
        """See `ChecklistMetric.chosen`."""
        detail = sample.item.detail
        return range(1 if detail.get("first_in_table") else 0, len(detail["questions"]))


class QuestionsOriginal(QuestionsUpstream):
    """The same, but an item with an unknown parent is lost, and categories see the last image of each prompt alone."""

    last_only = True

    def chosen(self, sample: Sample) -> range | None:
        """See `ChecklistMetric.chosen`; None for an item whose scoring fails in the original."""
        places = super().chosen(sample) or range(0)
        questions = [sample.item.detail["questions"][place] for place in places]
        known = {question["id"] for question in questions}
        return places if all(known.issuperset(question["parents"]) for question in questions) else None
