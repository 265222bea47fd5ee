"""What a server has for evaluation."""

from __future__ import annotations

from gatehouse.moving.server.reading import API3, Reading, number
from gatehouse.moving.server.staged import Values


class Evaluation:
    """Reads scorers, and counts evaluation datasets."""

    def __init__(self, of: Reading) -> None:
        self._of = of

    def scorers(self, experiment: int) -> None:
        """Read an experiment's scorers with all their versions."""
        listed = self._of.remote.get(f"{API3}/scorers/list", {"experiment_id": str(experiment)}).get("scorers") or ()
        for name in sorted({str(each["scorer_name"]) for each in listed}):
            asked = {"experiment_id": str(experiment), "name": name}
            versions = list(self._of.remote.get(f"{API3}/scorers/versions", asked).get("scorers") or ())
            if not versions:
                continue
            key = str(versions[0].get("scorer_id") or self._of.id("scorer", experiment, name))
            rows = [
                {
                    "scorer_id": key, "scorer_version": int(each["scorer_version"]),
                    "serialized_scorer": each["serialized_scorer"], "creation_time": number(each, "creation_time"),
                }
                for each in versions
            ]  # fmt: skip
            scorer = {"scorer_id": key, "experiment_id": experiment, "scorer_name": name}
            self._of.staged.put([("scorers", [scorer]), ("scorer_versions", rows)])

    def datasets(self) -> None:
        """Count them: the API tells too little of their records to make them anew."""
        query: Values = {"max_results": 1000}
        pages = self._of.remote.pages(f"{API3}/datasets/search", "datasets", query, post=True)
        if count := sum(map(len, pages)):
            self._of.told.notes.append(f"{count} evaluation datasets stay there: its database would bring them")
