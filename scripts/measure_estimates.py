#!/usr/bin/env python3
"""How far the estimates of `limits.estimate` are from the exact counts: the tables of docs/estimates.md.

`python scripts/measure_estimates.py [--output FILE]`

The corpus is what this machine has: English from licences, READMEs and metadata of packages; code from Python's
library, site-packages and C headers; JSON from the data of packages; Chinese from translations of programs and manual
pages. So another machine gives other figures, though not very different ones. Where there is no Chinese, a text of our
own stands in.

Each file gives 40,000 characters at most, so that large tables do not decide. The files are dealt to two halves; the
first is for fitting weights, and the tables are of the second. From a half 300 prompts are cut, 100 bytes to 100 KB,
evenly by the logarithm, and each is the one message of a chat.
"""

import argparse
import gettext
import gzip
import json
import platform
import random
import sys
import sysconfig
import timeit
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from stratmaster_router.limits.estimate import (
    answer_tokens,
    count_tokens,
    input_bound,
    input_estimate,
    request_tokens,
)

MODEL = "gpt-4o"
PROMPTS = 300
TESTED = 1  # the half of the corpus that is measured; the other is for fitting
LONGEST_PIECE = 40_000
FRAMING = 7  # what OpenAI adds to a chat of one message
LIBRARY = Path(sysconfig.get_path("stdlib"))
PACKAGES = Path(sysconfig.get_path("purelib"))
SHARE = Path("/usr/share")

SOURCES: dict[str, tuple[tuple[Path, str], ...]] = {
    "English": (
        (PACKAGES, "*.dist-info/**/METADATA"),
        (PACKAGES, "*.dist-info/**/LICENSE*"),
        (PACKAGES, "**/*.md"),
        (PACKAGES, "**/*.rst"),
        (SHARE / "common-licenses", "*"),
        (SHARE / "doc", "*/README*"),
        (SHARE / "doc", "*/NEWS*"),
    ),
    "code": (
        (LIBRARY, "*.py"),
        (LIBRARY, "asyncio/*.py"),
        (PACKAGES, "*/*.py"),
        (PACKAGES, "**/*.js"),
        (PACKAGES, "**/*.h"),
        (Path("/usr/include"), "*.h"),
        (SHARE / "perl", "*/*.pm"),
    ),
    "JSON": (
        (PACKAGES, "**/*.json"),
        (SHARE, "*/*.json"),
        (SHARE, "*/*/*.json"),
    ),
    "Chinese": (
        (SHARE / "locale/zh_CN/LC_MESSAGES", "*.mo"),
        (PACKAGES, "**/zh_CN/**/*.mo"),
        (PACKAGES, "**/zh_Hans/**/*.mo"),
        (SHARE / "man/zh_CN", "*/*.gz"),
        (SHARE / "gnupg", "help.zh_CN.txt"),
        (SHARE / "vim", "*/tutor/tutor.zh_cn.utf-8"),
        (Path("/usr/lib/systemd/catalog"), "systemd.zh_CN.catalog"),
    ),
}

OUR_CHINESE = (
    "请帮我把下面这段会议记录整理成三点结论。今天上午九点半,产品组和后端组一起讨论了新版网关的上线计划。\n",
    "小王认为应当先在测试环境里跑满一周,再逐步放量;李工则担心数据库的连接数不够,建议把连接池从二十个加到五十个。\n",
    "春天到了,院子里的杏花开得正好。奶奶搬了一把竹椅坐在树下,一边剥豆子,一边给孩子们讲从前的故事。\n",
    "根据合同第七条,乙方应于收到货物后十五个工作日内付清余款;逾期未付的,每日按未付金额的万分之五支付违约金。\n",
    "这道菜的做法并不难:先把五花肉切成两厘米见方的块,冷水下锅焯水,然后用小火炒出糖色,加入酱油、料酒和姜片,炖四十分钟。\n",
    "实验结果表明,当温度从 20℃ 升高到 65℃ 时,催化剂的活性提高了约 3.2 倍,但选择性下降了 11%。\n",
    "问:为什么函数返回了 None?答:因为 if 分支里没有写 return 语句,Python 默认返回 None。\n",
    "昨晚的比赛非常精彩,主队在第八十九分钟由替补上场的年轻前锋打入制胜一球,全场四万名观众起立欢呼。\n",
    "鲸鱼并不是鱼,而是哺乳动物。它们用肺呼吸,所以每隔一段时间就必须浮上海面换气。\n",
    "您好,我上周订购的耳机(订单号 2024-118-3306)左边没有声音,请问可以换货吗?发票和包装盒都还在。\n",
)


class Prompt(NamedTuple):
    """One chat of one message: its text, its body and the body's fields; `exact` are the tokens of the text."""

    text: str
    body: bytes
    fields: dict[str, Any]
    exact: int


def read(path: Path) -> str:
    try:
        if path.suffix == ".mo":
            with path.open("rb") as file:
                catalog: dict[str, Any] = vars(gettext.GNUTranslations(file))["_catalog"]
            return "\n".join(text for text in catalog.values() if isinstance(text, str))
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    except (OSError, UnicodeDecodeError, EOFError):
        return ""


def texts(kind: str, half: int) -> str:
    paths = {path for folder, pattern in SOURCES[kind] if folder.exists() for path in folder.glob(pattern)}
    found = [
        text[:LONGEST_PIECE]
        for path in sorted(paths)
        if path.is_file() and 300 < path.stat().st_size < 2_000_000 and (text := read(path))
    ]
    if kind == "Chinese" and len(found) < 10:
        print("No Chinese is installed: a text of our own stands in.", file=sys.stderr)
        found = list(OUR_CHINESE) * 200
    random.Random(kind).shuffle(found)  # noqa: S311  # the same texts in every run
    return "\n\n".join(found[half::2])


def prompts(kind: str, half: int, *, escaped: bool = False) -> list[Prompt]:
    data = texts(kind, half).encode()
    chance = random.Random(f"{kind} {half}")  # noqa: S311  # the same prompts in every run
    made = []
    for _ in range(PROMPTS):
        size = int(100 * 1000 ** chance.random())
        begin = chance.randrange(max(1, len(data) - size))
        text = data[begin : begin + size].decode(errors="ignore")
        fields = {"model": MODEL, "messages": [{"role": "user", "content": text}]}
        body = json.dumps(fields, ensure_ascii=escaped, separators=(",", ":")).encode()
        made.append(Prompt(text, body, fields, exactly(text, MODEL)))
    return made


def exactly(text: str, model: str) -> int:
    counted = count_tokens(text, model)
    assert counted is not None
    return counted


def quantiles(values: Iterable[float], at: Sequence[float]) -> list[str]:
    ordered = sorted(values)
    return [f"{ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]:.2f}" for part in at]


def row(name: str, sample: list[Prompt]) -> str:
    estimates = [input_estimate(prompt.body) / prompt.exact for prompt in sample]
    bounds = [input_bound(prompt.body, MODEL, prompt.fields) / prompt.exact for prompt in sample]
    counts = []
    answers = []
    for prompt in sample:
        counted = request_tokens(prompt.body, MODEL, prompt.fields)
        assert counted is not None
        counts.append(counted / (prompt.exact + FRAMING))
        # Of the two vocabularies at hand the smaller one stands for those that are not known.
        answers.append(answer_tokens(prompt.text, "unknown") / exactly(prompt.text, "gpt-4"))
    under = sum(ratio < 1 for ratio in estimates) / len(estimates)
    cells = [
        name,
        f"{len(sample)}",
        f"{sum(prompt.exact for prompt in sample):,}",
        " / ".join(quantiles(estimates, (0.05, 0.5, 0.95, 1))),
        f"{under:.1%}",
        " / ".join(quantiles(bounds, (0.05, 0.5, 0.95))),
        " / ".join(quantiles(counts, (0, 0.5, 0.95))),
        " / ".join(quantiles(answers, (0, 0.5, 0.95))),
    ]
    return f"| {' | '.join(cells)} |"


def micros(call: Callable[[], object]) -> str:
    once = timeit.timeit(call, number=1)
    number = max(1, int(0.02 / max(once, 1e-7)))
    best = min(timeit.repeat(call, number=number, repeat=9)) / number * 1e6
    return f"{best:.2f}" if best < 100 else f"{best:,.0f}"


def speeds(kind: str) -> Iterable[str]:
    # Without what is escaped, so that the sizes are those wanted.
    text = " ".join(texts(kind, TESTED).replace('"', "'").replace("\\", "/").split()) * 4
    for size in (300, 4_096, 32_768, 1 << 20):
        piece = text.encode()[: size - 66].decode(errors="ignore")
        fields = {"model": MODEL, "messages": [{"role": "user", "content": piece}]}
        body = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
        cells = [
            f"{kind}, {len(body):,} bytes",
            micros(partial(input_estimate, body)),
            micros(partial(input_bound, body, MODEL, fields)),
            micros(partial(request_tokens, body, MODEL, fields)),
        ]
        yield f"| {' | '.join(cells)} |"


def report() -> str:
    lines = [
        f"Python {platform.python_version()}, {platform.machine()}; exact counts with o200k_base.",
        "",
        "| kind | n | tokens | estimate / exact: p5 / median / p95 / max | too low | bound / exact: p5 / median / p95 "
        "| request count / billed: min / median / p95 | answer, unknown model / cl100k: min / median / p95 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        *(row(kind, prompts(kind, TESTED)) for kind in SOURCES),
        row("Chinese, `\\u`-escaped", prompts("Chinese", TESTED, escaped=True)),
        "",
        "| body | estimate, µs | bound, µs | request count, µs |",
        "| --- | --- | --- | --- |",
        *speeds("English"),
        *speeds("Chinese"),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the estimates against exact counts.")
    parser.add_argument("--output", type=Path, help="write the tables to this file instead of the terminal")
    arguments = parser.parse_args()
    found = report()
    if arguments.output is None:
        print(found, end="")
    else:
        arguments.output.write_text(found)


if __name__ == "__main__":
    main()
