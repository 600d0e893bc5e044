"""Storms of requests against several routers on one database, counted at the upstream.

G1  what was billed stays within the cap, always
G2  what is recorded is at least what was billed, always
G3  once all has settled and nothing was killed, both are equal, and the rest of the cap is free
"""

import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import aiohttp
from stratmaster_router.limits.store import LEASE

from support.database import execute
from support.processes import COMMAND, MOCK, clean_environ, free_port
from support.servers import ACME_KEY

CAP_USD = "1.00"
CAP_NANOUSD = 10**9
TPM = 100_000
# A token's price is such that both caps are met within seconds: the bucket first, then the budget.
INPUT_NANOUSD, OUTPUT_NANOUSD = 6_500, 13_000

POLICY = """
providers:
  mock: {{base_url: "{mock}/v1", timeouts: {{first_byte: 20s, idle: 20s, total: 40s}}}}
models:
  small: {{input_usd_per_mtok: 6.5, output_usd_per_mtok: 13}}
tenants:
  acme:
    limits: {{{limits}}}
    providers:
      mock: {{models: {{chat: {{default: small}}}}}}
"""
HEADERS = {"Authorization": f"Bearer {ACME_KEY}", "X-Tenant-ID": "acme"}


class Billed(NamedTuple):
    """What the upstream counted."""

    input: int
    output: int

    @property
    def nanousd(self) -> int:
        """Its price."""
        return self.input * INPUT_NANOUSD + self.output * OUTPUT_NANOUSD


class Report(NamedTuple):
    """What came of a storm. Money is in nano-dollars, `seconds` is how long requests could be made."""

    billed: Billed
    recorded: int
    presumed: int
    used: int
    held: int
    rows: int
    statuses: dict[str, int]
    kills: int
    seconds: float

    def problems(self) -> list[str]:
        """Each promise that was broken."""
        found = []
        cost = self.billed.nanousd
        if cost > CAP_NANOUSD:
            found.append(f"G1: billed {cost} of {CAP_NANOUSD} nano-dollars")
        tokens = self.billed.input + self.billed.output
        if tokens > TPM + TPM * self.seconds / 60:
            found.append(f"G1: billed {tokens} tokens in {self.seconds:.1f} s")
        if self.recorded < cost:
            found.append(f"G2: recorded {self.recorded}, billed {cost}")
        if self.recorded > CAP_NANOUSD:
            found.append(f"recorded {self.recorded} is over the cap")
        if self.used != self.recorded or self.held != 0:
            found.append(f"the account says {self.used} used and {self.held} held, the ledger {self.recorded}")
        if not self.kills and self.recorded != cost:
            found.append(f"G3: recorded {self.recorded}, billed {cost}")
        unknown = set(self.statuses) - {
            "200",
            "429 budget_exceeded",
            "429 tokens_per_minute_exceeded",
            *(["broken"] if self.kills else []),
        }
        if unknown:
            found.append(f"answers {sorted(unknown)}")
        return found


class Routers:
    """Router processes on one database, each on a port of its own."""

    def __init__(self, folder: Path, database: str, policy: str, count: int) -> None:
        self._folder = folder
        self._database = database
        (folder / "keys").mkdir()
        (folder / "keys" / "acme").write_text(ACME_KEY)
        (folder / "policy.yaml").write_text(policy)
        self.ports = [free_port() for _ in range(count)]
        self._running: dict[int, asyncio.subprocess.Process] = {}

    async def start(self, port: int) -> None:
        """Start the router of `port` and wait until it answers."""
        with (self._folder / f"router-{port}.log").open("ab") as log:
            self._running[port] = await asyncio.create_subprocess_exec(
                COMMAND,
                "serve",
                "--port",
                str(port),
                env=clean_environ(
                    ROUTER_DATABASE_URL=self._database,
                    ROUTER_POLICY=str(self._folder / "policy.yaml"),
                    ROUTER_KEYS_DIR=str(self._folder / "keys"),
                    ROUTER_ACCESS_LOG="off",
                ),
                stdout=log,
                stderr=log,
            )
        async with aiohttp.ClientSession() as session:
            for _ in range(1000):
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{port}/healthz") as response:
                        if response.status == 200:
                            return
                await asyncio.sleep(0.02)
        raise AssertionError((self._folder / f"router-{port}.log").read_text()[-2000:])

    async def kill(self, port: int) -> None:
        """End the router of `port` with SIGKILL."""
        process = self._running.pop(port)
        process.kill()
        await process.wait()

    async def stop(self) -> None:
        """End all with SIGTERM, each with its leases given back; every one must end well."""
        for process in self._running.values():
            process.send_signal(signal.SIGTERM)
        codes = [await process.wait() for process in self._running.values()]
        self._running.clear()
        assert codes == [0] * len(codes), codes


@contextlib.asynccontextmanager
async def upstream(folder: Path) -> AsyncIterator[str]:
    """The mocked provider as a process; its address."""
    port = free_port()
    with (folder / "mock.log").open("wb") as log:
        mock = await asyncio.create_subprocess_exec(
            sys.executable, str(MOCK), "--port", str(port), stdout=log, stderr=log
        )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(500):
            with contextlib.suppress(OSError):
                urlopen(f"{url}/healthz").close()
                break
            await asyncio.sleep(0.02)
        yield url
    finally:
        mock.terminate()
        await mock.wait()


def billed(mock: str) -> Billed:
    """What the upstream has counted so far."""
    with urlopen(f"{mock}/mock/requests") as response:
        totals = json.load(response)["totals"]
    return Billed(totals["prompt_tokens"], totals["completion_tokens"])


@contextlib.asynccontextmanager
async def routers(folder: Path, database: str, limits: str, count: int = 4) -> AsyncIterator[tuple[Routers, str]]:
    """`count` routers under `limits`, and the address of their upstream."""
    async with upstream(folder) as mock:
        running = Routers(folder, database, POLICY.format(mock=mock, limits=limits), count)
        try:
            await asyncio.gather(*(running.start(port) for port in running.ports))
            yield running, mock
        finally:
            for port in list(running._running):
                await running.kill(port)


async def storm(
    folder: Path, database: str, *, seed: int, seconds: float, clients: int = 64, kill_every: float | None = None
) -> Report:
    """Four processes, each with so many clients, against one budget of a dollar and one bucket of tokens."""
    chance = random.Random(seed)
    statuses: Counter[str] = Counter()
    limits = f"tpm: {TPM}, budget_usd_month: {CAP_USD}"
    async with routers(folder, database, limits) as (running, mock):
        began = time.monotonic()
        end = began + seconds
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=HEADERS) as session:
            tasks = [
                asyncio.create_task(_client(session, port, random.Random(chance.random()), end, statuses))
                for port in running.ports
                for _ in range(clients)
            ]
            kills = 0
            restarts = []
            while kill_every is not None and time.monotonic() + kill_every < end:
                await asyncio.sleep(kill_every)
                # Whoever is up or on its way up; the next kill does not wait for this one's return.
                port = chance.choice(running.ports)
                await running.kill(port)
                kills += 1
                restarts.append(asyncio.create_task(running.start(port)))
            await asyncio.gather(*tasks)
            await asyncio.gather(*restarts)
        elapsed = time.monotonic() - began
        if kills:
            # One lease time, and what the survivors need to notice.
            await asyncio.sleep(LEASE * 2.5)
        await running.stop()
        found = billed(mock)
    recorded, presumed, rows, used, held = await read_books(database)
    return Report(found, recorded, presumed, used, held, rows, dict(statuses), kills, elapsed)


async def _client(
    session: aiohttp.ClientSession, port: int, chance: random.Random, end: float, statuses: Counter[str]
) -> None:
    while time.monotonic() < end:
        body = request(chance)
        try:
            async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as response:
                answer = await response.read()
                statuses[_outcome(response.status, answer)] += 1
                if response.status == 429:
                    await asyncio.sleep(
                        chance.uniform(0.05, 0.5)
                    )  # as a patient client does; it keeps the load bounded
        except (aiohttp.ClientError, OSError):
            statuses["broken"] += 1
            await asyncio.sleep(0.1)


def request(chance: random.Random) -> dict[str, Any]:
    """A request of some random size, streamed or not."""
    words = " ".join(["word"] * chance.randint(1, 200))
    return {
        "model": "chat",
        "messages": [{"role": "user", "content": words}],
        "max_tokens": chance.choice([5, 50, 300]),
        "stream": chance.random() < 0.3,
    }


def _outcome(status: int, answer: bytes) -> str:
    if status == 200:
        return "200"
    try:
        return f"{status} {json.loads(answer)['error']['code']}"
    except ValueError:
        return str(status)


async def read_books(database: str) -> tuple[int, int, int, int, int]:
    """Of the ledger: cost, presumed cost, rows; of the month's budget: used, held."""
    from sqlalchemy import func, select
    from stratmaster_router.storage.database import Database, database_url
    from stratmaster_router.storage.tables import accounts, ledger

    sums = select(func.coalesce(func.sum(ledger.c.cost_nanousd), 0), func.count())
    opened = Database(database_url(database))
    try:
        (cost, rows), *_ = await execute(opened, sums)
        (presumed, _), *_ = await execute(opened, sums.where(ledger.c.presumed))
        (used, held), *_ = await execute(
            opened, select(accounts.c.used, accounts.c.held).where(accounts.c.window == "month")
        )
    finally:
        await opened.close()
    return int(cost), int(presumed), rows, used, held


class Sequence(NamedTuple):
    """What came of one client that asks one router after the other until the budget refuses, twice."""

    billed: Billed
    cap: int
    answered: int
    needed: tuple[int, ...]
    left: tuple[int, ...]

    def problems(self) -> list[str]:
        """Each refusal that was wrong."""
        wrong = [
            f"{needed} was refused while {left} was left"
            for needed, left in zip(self.needed, self.left, strict=True)
            if needed <= left
        ]
        over = [f"billed {self.billed.nanousd} of {self.cap}"] if self.billed.nanousd > self.cap else []
        return wrong + over


async def spend_in_turn(folder: Path, database: str, *, seed: int) -> Sequence:
    """Spend a budget of a cent through four processes in turn, by large requests and then by the smallest there are."""
    chance = random.Random(seed)
    cap = 10_000_000
    needed, left, answered = [], [], 0
    async with routers(folder, database, "budget_usd_month: 0.01") as (running, mock):
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            for words, bound in ((30, 40), (1, 1)):
                while True:
                    port = chance.choice(running.ports)
                    body = {
                        "model": "chat",
                        "messages": [{"role": "user", "content": "w " * words}],
                        "max_tokens": bound,
                    }
                    async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as response:
                        answer = await response.json()
                    if response.status != 200:
                        break
                    answered += 1
                assert (response.status, answer["error"]["code"]) == (429, "budget_exceeded"), answer
                needed.append(round(answer["error"]["limit"]["requested"] * 10**9))
                left.append(cap - billed(mock).nanousd)
        await running.stop()
        return Sequence(billed(mock), cap, answered, tuple(needed), tuple(left))


class Outage(NamedTuple):
    """What came of a database that was away for a while. `recovery` is in seconds after its return."""

    statuses: dict[str, int]
    recovery: float
    billed: Billed
    recorded: int

    def problems(self) -> list[str]:
        """Each promise that was broken."""
        found = []
        unknown = set(self.statuses) - {"200", "429 budget_exceeded", "503 limit_store_unavailable"}
        if unknown:
            found.append(f"answers {sorted(unknown)}")
        if self.billed.nanousd > CAP_NANOUSD:
            found.append(f"billed {self.billed.nanousd}")
        if self.recovery > 2:
            found.append(f"recovery took {self.recovery:.2f} s")
        if self.recorded != self.billed.nanousd:
            found.append(f"recorded {self.recorded}, billed {self.billed.nanousd}")
        return found


async def outage(
    folder: Path, database: str, stop: Callable[[], None], start: Callable[[], None], *, seconds: float = 10.0
) -> Outage:
    """Two routers under load whose database is stopped for `seconds`."""
    statuses: Counter[str] = Counter()
    back: list[float] = []
    answered: list[float] = []

    async def client(session: aiohttp.ClientSession, port: int, chance: random.Random, end: float) -> None:
        while time.monotonic() < end:
            body = {**request(chance), "max_tokens": 5}
            async with session.post(f"http://127.0.0.1:{port}/v1/chat/completions", json=body) as response:
                outcome = _outcome(response.status, await response.read())
            statuses[outcome] += 1
            if outcome == "200" and back:
                answered.append(time.monotonic())
            await asyncio.sleep(0.1)

    async with routers(folder, database, f"budget_usd_month: {CAP_USD}", 2) as (running, mock):
        async with aiohttp.ClientSession(headers=HEADERS) as session:
            end = time.monotonic() + seconds + 7
            clients = [
                asyncio.create_task(client(session, port, random.Random(number), end))
                for port in running.ports
                for number in range(4)
            ]
            await asyncio.sleep(2)
            await asyncio.to_thread(stop)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(start)
            back.append(time.monotonic())
            await asyncio.gather(*clients)
        await running.stop()
        found = billed(mock)
    recorded, _, _, _, _ = await read_books(database)
    recovery = min(answered, default=float("inf")) - back[0]
    return Outage(dict(statuses), recovery, found, recorded)
