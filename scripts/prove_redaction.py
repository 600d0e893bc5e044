#!/usr/bin/env python3
"""Proves what detection finds, and at what cost: `make prove-redaction ARGS="--samples 60000 --seed 7"`.

Recall and precision by kind over generated texts (tests/support/corpus.py); microseconds of CPU a KB for kinds of text
as they are and for the generated ones, which are dense; and how the cost grows with hostile texts. Exits 1 where a
promise of docs/redaction.md is broken.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from random import Random

from stratmaster_router.privacy.detect import Detector
from support.corpus import CLASSES, KINDS, LOCALES, ordinary, samples
from support.redaction import figures

REPOSITORY = Path(__file__).parent.parent
SIZE = 8 * 1024  # characters of a text whose cost is measured
RECALL, PRECISION, COST, GROWTH = 0.99, 0.98, 60.0, 2.0

HOSTILE = (
    *("a", "1", "1 ", "12 34 56 78 ", "123-", "1.", "+1 ", "(", "00 ", "@", "a@", "a.b@c.", "x@y.zz"),
    *(":", "2001:", "f", "fe80:", "a:b@", "://", "x://u:p@", "password=", "token: ", "sk-", "eyJhbGciOi", "A1"),
    *("-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "-----END ", "DE89 ", "DE89370400440532013000 ", "Bearer ", "tel "),
    *("４１１１", "\u200b", "é", "漢字", "\\", '"', "=", "AB12 ", "4111 1111 1111 1111 ", "phone 123 456 789 "),
)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=500 * len(KINDS), help="generated texts")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    detector = Detector()
    held = [found(detector, given.seed, given.samples), costs(detector, given.seed), growth(detector)]
    sys.exit(not all(held))


def found(detector: Detector, seed: int, count: int) -> bool:
    """The figures by kind; whether they hold."""
    result = figures(detector, seed, count)
    print(f"{count} texts in {len(LOCALES)} locales and {len(CLASSES)} classes, seed {seed}\n")
    print("kind                   values   found   recall")
    for kind in KINDS:
        there, hits = result.there[kind.name], result.found[kind.name]
        print(f"{kind.name:20} {there:8} {hits:7}  {hits / max(1, there):7.2%}")
    print("\nfindings of       right   wrong  precision")
    for name in sorted(result.right | result.wrong):
        right, wrong = result.right[name], result.wrong[name]
        print(f"{name:14} {right:8} {wrong:7}  {right / max(1, right + wrong):9.2%}")
    print(f"\nrecall {result.recall:.3%} (at least {RECALL:.0%})")
    print(f"precision {result.precision:.3%} (at least {PRECISION:.0%})")
    return result.recall >= RECALL and result.precision >= PRECISION


def costs(detector: Detector, seed: int) -> bool:
    """Microseconds a KB by class of text; whether the median holds."""
    print("\ntext                     µs/KB  findings/KB")
    medians = []
    for name, texts in (("as it is", as_it_is(seed)), ("generated", generated(seed))):
        measured = []
        for kind, text in texts.items():
            cost = microseconds(detector, text)
            measured.append(cost)
            print(
                f"{name + ', ' + kind:22} {cost:7.1f}  {len(detector.find(text)) * 1024 / len(text):11.2f}", flush=True
            )
        medians.append(statistics.median(measured))
    print(f"\nmedian {medians[0]:.1f} µs/KB (at most {COST:.0f}); of the dense generated ones {medians[1]:.1f}")
    return medians[0] <= COST


def as_it_is(seed: int) -> Mapping[str, str]:
    """Texts with few findings: what people write, what programs write, and what is written to them."""
    random = Random(seed)  # noqa: S311  # the same texts every time
    markdown = "".join(path.read_text() for path in sorted((REPOSITORY / "docs").rglob("*.md")))
    source = "".join(path.read_text() for path in sorted((REPOSITORY / "packages/router/src").rglob("*.py")))
    return {
        **{
            f"prose {locale}": ordinary(random, "prose", locale, SIZE)
            for locale in ("en_US", "de_DE", "fr_FR", "ja_JP")
        },
        "markdown": markdown[:SIZE],
        "source code": source[: SIZE * 2],
        "chat request": json.dumps({"messages": [{"role": "user", "content": markdown[: SIZE // 8]}] * 8}),
        "JSON": ordinary(random, "json", "en_US", SIZE),
        "log": ordinary(random, "log", "en_US", SIZE),
        "base64": random.randbytes(SIZE).hex().upper()[::2] + "".join(random.choices("abcXYZ019+/", k=SIZE)),
    }


def generated(seed: int) -> Mapping[str, str]:
    """The texts that the figures are of, by class."""
    texts = dict.fromkeys(CLASSES, "")
    for sample in samples(seed, 3000):
        if len(texts[sample.name]) < SIZE * 4:
            texts[sample.name] += sample.text + "\n"
    return texts


def growth(detector: Detector) -> bool:
    """Whether eight times a hostile text costs eight times as much, and not sixty-four."""
    worst: list[tuple[float, str, float]] = []
    for unit in HOSTILE:
        small, large = (unit * (size // len(unit)) for size in (16 * 1024, 128 * 1024))
        one, eight = microseconds(detector, small), microseconds(detector, large)
        worst.append((eight / one, unit, eight))
    worst.sort(reverse=True)
    print("\nhostile text, repeated    µs/KB of 128 KB  to that of 16 KB")
    for ratio, unit, cost in worst[:8]:
        print(f"{unit!r:24} {cost:16.1f}  {ratio:16.2f}")
    print(f"\ngrowth {worst[0][0]:.2f} (at most {GROWTH:.0f})")
    return worst[0][0] <= GROWTH


def microseconds(detector: Detector, text: str) -> float:
    """The least CPU time of a few tries, for each KB."""
    best = float("inf")
    for _ in range(7):
        began = time.process_time()
        detector.find(text)
        best = min(best, time.process_time() - began)
    return best * 1e6 / (len(text) / 1024)


if __name__ == "__main__":
    main()
