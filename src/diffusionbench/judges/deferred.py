"""Judges that load their weights where they have to judge, and are what their evidence says until then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
import torch

from diffusionbench.errors import RequestError
from diffusionbench.judges import JUDGES, JudgeSpec
from diffusionbench.judges.judge import Evidence, Judge, JudgeFacts, JudgeManifest
from diffusionbench.judges.selftest import self_test
from diffusionbench.sample import Item


class DeferredJudge(Judge):
    """A row of the table whose code is not made before it is needed.

    Attributes:
        spec: the row.
        tested: outcome of the self-test in words, of the one before the evidence where it was not loaded here.
    """

    spec: JudgeSpec  # type: ignore[misc]

    def __init__(
        self, row: JudgeSpec, device: str, used: Mapping[str, DeferredJudge], known: JudgeManifest | None = None
    ) -> None:
        """Take a row, the judges whose evidence it uses, and what evidence says of it, where there is some."""
        self.spec = row
        self.device = device
        self.options = dict(row.options)
        self.tested = None if known is None else known.self_test
        self._used = used
        self._known = None if known is None else known.facts

    @property
    def is_known(self) -> bool:
        """Whether its facts are known without loading it."""
        return self._known is not None or "_code" in vars(self)

    @cached_property
    def facts(self) -> JudgeFacts:
        """What its evidence depends on; where no evidence says it, the weights are loaded."""
        return self._known or self._facts_of(self._code)

    @property
    def digest(self) -> str:  # type: ignore[override]
        """See `Judge`."""
        return self.facts.digest

    @property
    def caution(self) -> str | None:  # type: ignore[override]
        """See `Judge`."""
        return self._code.caution if "_code" in vars(self) else None

    def load(self) -> None:
        """Load the weights and test them on this machine.

        Raises:
            RunError: if the self-test fails.
            RequestError: if they are others than those that the evidence is of.
        """
        found = self._facts_of(self._code)
        if self._known is not None and self._known.key != found.key:
            raise RequestError(
                f"the evidence here is of judge '{self.name}' with digest {self._known.digest[:12]}, and the one that "
                f"is installed has {found.digest[:12]} (other weights or settings), which must not be mixed. Judge the "
                "images again with `diffusionbench judge`."
            )

    @cached_property
    def _code(self) -> Judge:
        # Building a network draws random weights first, which must not disturb a training run.
        with torch.random.fork_rng():
            judge: Judge = JUDGES.load(self.name)(self.device)
            self.tested = str(self_test(judge, self.device))
        return judge

    def _facts_of(self, judge: Judge) -> JudgeFacts:
        return JudgeFacts(
            name=self.name,
            digest=judge.digest,
            version=self.spec.version,
            precision=self.spec.precision,
            options=dict(judge.options),
            uses={name: used.facts.key for name, used in self._used.items()},
        )

    def __call__(
        self, images: np.ndarray, items: Sequence[Item] = (), given: Mapping[str, Evidence] | None = None
    ) -> Evidence:
        """See `Judge`."""
        self.load()
        return self._code(images, items, given)
