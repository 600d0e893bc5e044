"""How much of what is there is found, and how much of what is found is there: the figures of detection."""

from collections import Counter
from dataclasses import dataclass, field

from stratmaster_router.privacy.detect import Detector

from support.corpus import samples


@dataclass
class Figures:
    """Counted over generated texts: by kind how many there were and how many were found, and what was found wrongly."""

    there: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    right: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)

    @property
    def recall(self) -> float:
        """The part of what is there that is found whole, as the right kind."""
        return self.found.total() / self.there.total()

    @property
    def precision(self) -> float:
        """The part of the findings that stand where something of their kind is."""
        return self.right.total() / (self.right.total() + self.wrong.total())


def figures(detector: Detector, seed: int, count: int) -> Figures:
    """The figures over `count` samples."""
    result = Figures()
    for sample in samples(seed, count):
        findings = detector.find(sample.text)
        for kind, start, end in sample.values:
            result.there[kind.name] += 1
            result.found[kind.name] += any(
                found.kind == kind.group and found.start <= start and end <= found.end for found in findings
            )
        for found in findings:
            there = any(
                found.kind == kind.group and found.start < end and start < found.end
                for kind, start, end in sample.values
            )
            (result.right if there else result.wrong)[found.kind] += 1
    return result
