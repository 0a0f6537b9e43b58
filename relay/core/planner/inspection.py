"""Optimum inspection: the polling policy of least expected cost, by backward dynamic programming over ages.

A poll costs `price`; an event that is not yet detected costs 1 per unit of time (Barlow and Proschan, Mathematical
Theory of Reliability, 1965, chapter 4.3). If polls come closer than a bin is wide, the hazard between them is constant
and a closed form holds. Otherwise the next poll is at the bin edge of least cost, refined by a parabola through its
neighbours. Ages are in units, as in `hazard.py`.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from relay.core.planner.hazard import BINS, EDGES, WIDTHS, bin_of
from relay.core.planner.price import price_of

START_WEIGHT = 0.02
"""Cost per unit of time in which a start is not yet detected."""
MIDDLES: tuple[float, ...] = tuple(a + width / 2 for a, width in zip(EDGES, WIDTHS, strict=False))
_SINCE = [
    [(at := bin_of(edge - middle), (edge - middle - EDGES[at]) / WIDTHS[at]) for edge in EDGES[place + 1 :]]
    for place, middle in enumerate(MIDDLES)
]
"""For each bin and each later edge: bin and fraction of the time from the bin's middle to that edge."""
NEVER = 1e-12
JUMP_BINS = 3


class Table:
    """A policy per bin edge: least expected cost, age of the next poll, expected number of polls, expected delay."""

    __slots__ = ("cost", "delay", "next", "polls", "step")

    def __init__(self) -> None:
        self.cost = [0.0] * (BINS + 1)
        self.next = [0.0] * (BINS + 1)
        self.polls = [0.0] * (BINS + 1)
        self.delay = [0.0] * (BINS + 1)
        self.step: list[float] = [0.0] * (BINS + 1)
        """Time to the next poll where the closed form holds, else 0."""

    def next_poll(self, age: float) -> float:
        """Age of the next poll of a job whose event had not happened at `age`."""
        if age >= EDGES[BINS]:
            return age + self.step[BINS]
        at = bin_of(age)
        if self.step[at] > 0:
            return age + self.step[at]
        here, there = self.next[at], self.next[at + 1]
        share = (age - EDGES[at]) / WIDTHS[at]
        if there > here + JUMP_BINS * WIDTHS[min(bin_of(here), BINS - 1)]:
            found = there if share > 0.5 else here
        else:
            found = here + (there - here) * share
        return max(found, age)

    def at(self, values: Sequence[float], age: float) -> float:
        """A column of the table, interpolated at any age."""
        if age >= EDGES[BINS]:
            return values[BINS]
        at = bin_of(age)
        return values[at] + (values[at + 1] - values[at]) * (age - EDGES[at]) / WIDTHS[at]


def _constant(rate: float, price: float) -> tuple[float, float, float, float]:
    """For a constant hazard: time between polls, then expected cost, polls and delay until the event is found."""
    rate = max(rate, NEVER)
    interval = math.sqrt(2 * price / rate)
    interval /= 1 + rate * interval / 6
    found = -math.expm1(-rate * interval)
    delay = interval - found / rate
    return interval, (price + delay) / found, 1 / found, delay / found


def _refined(costs: list[float], first: int, best: int) -> float:
    """Minimum of the parabola through the best edge and its neighbours. `costs[k]` belongs to edge `first + k`.

    The best edge is the first of its cost, so the parabola opens upwards.
    """
    k = best - first
    if k == 0 or k + 1 >= len(costs):
        return EDGES[best]
    a, b, c = EDGES[best - 1], EDGES[best], EDGES[best + 1]
    fa, fb, fc = costs[k - 1], costs[k], costs[k + 1]
    below = (b - a) * (fb - fc) - (b - c) * (fb - fa)
    found = b - 0.5 * ((b - a) ** 2 * (fb - fc) - (b - c) ** 2 * (fb - fa)) / below
    return min(max(found, a), c)


def run_table(rates: Sequence[float], price: float) -> Table:
    """Policy for a running job. Age counts from the start; the event is the end."""
    table = Table()
    cost, polls, delay = table.cost, table.polls, table.delay
    kept = [math.exp(-rate * width) for rate, width in zip(rates, WIDTHS, strict=True)]
    spent = [(1 - each) / max(rate, NEVER) for each, rate in zip(kept, rates, strict=True)]
    table.step[BINS], cost[BINS], polls[BINS], delay[BINS] = _constant(rates[BINS - 1], price)
    table.next[BINS] = EDGES[BINS] + table.step[BINS]
    for i in range(BINS - 1, -1, -1):
        interval, cost_here, polls_here, delay_here = _constant(rates[i], price)
        best, best_j, best_alive, best_late = math.inf, i + 1, 1.0, 0.0
        alive, late, costs = 1.0, 0.0, []
        for j in range(i, BINS):
            late += WIDTHS[j] - alive * spent[j]
            alive *= kept[j]
            total = price + late + alive * cost[j + 1]
            costs.append(total)
            if total < best:
                best, best_j, best_alive, best_late = total, j + 1, alive, late
            if price + late > best:
                break
        if interval < WIDTHS[i]:
            closed = cost_here * (1 - kept[i]) + kept[i] * cost[i + 1]
            if closed < best:
                cost[i] = closed
                polls[i] = polls_here * (1 - kept[i]) + kept[i] * polls[i + 1]
                delay[i] = delay_here * (1 - kept[i]) + kept[i] * delay[i + 1]
                table.step[i] = interval
                table.next[i] = EDGES[i] + interval
                continue
        cost[i] = best
        polls[i] = 1 + best_alive * polls[best_j]
        delay[i] = best_late + best_alive * delay[best_j]
        table.next[i] = _refined(costs, i + 1, best_j)
    return table


def wait_table(rates: Sequence[float], run_rates: Sequence[float], run: Table, price: float) -> Table:
    """Policy for a waiting job. Age counts from the anchor; the event is the start, but the delay is that of the end.

    A poll finds the job waiting, running for some time, or ended. From there on the cost is that of `run`.
    """
    table = Table()
    cost, polls, delay = table.cost, table.polls, table.delay
    ahead = _ahead(run_rates, run)
    kept = [math.exp(-rate * width) for rate, width in zip(rates, WIDTHS, strict=True)]
    steady = _Steady(ahead)
    table.step[BINS], cost[BINS], polls[BINS], delay[BINS] = steady.at_rate(rates[BINS - 1], price)
    table.next[BINS] = EDGES[BINS] + table.step[BINS]
    total, total_polls, total_delay = ahead
    reach = BINS
    # For starts in bin k, per job waiting at edge i: the sum over i <= k < j of share * cost from there on.
    sums = [0.0] * (BINS + 1)
    # The first poll of a run is best `wait` after its start; before that the cost may have local minima.
    wait = run.next[0]
    for i in range(BINS - 1, -1, -1):
        q = kept[i]
        best, best_j, alive, costs = math.inf, i + 1, 1.0, []
        settled = EDGES[i + 1] + 2 * wait
        for j, (at, part) in enumerate(_SINCE[i][: reach - i], i + 1):
            alive *= kept[j - 1]
            here = total[at]
            started = (1 - q) * (here + (total[at + 1] - here) * part)
            if j > i + 1:
                started += q * sums[j]
            sums[j] = started
            found = price + started + alive * cost[j]
            costs.append(found)
            if found < best:
                best, best_j = found, j
            if price + started > best and EDGES[j] > settled:
                reach = j
                break
        step, cost_here, polls_here, delay_here = steady.at_rate(rates[i], price)
        if step < WIDTHS[i]:
            closed = cost_here * (1 - q) + q * cost[i + 1]
            if closed < best:
                table.step[i], table.next[i] = step, EDGES[i] + step
                cost[i] = closed
                polls[i] = polls_here * (1 - q) + q * polls[i + 1]
                delay[i] = delay_here * (1 - q) + q * delay[i + 1]
                continue
        cost[i] = best
        table.next[i] = _refined(costs, i + 1, best_j)
        share, n, d = 1.0, 1.0, 0.0
        for k in range(i, best_j):
            begun = share * (1 - kept[k])
            at, part = _SINCE[k][best_j - k - 1]
            n += begun * (total_polls[at] + (total_polls[at + 1] - total_polls[at]) * part)
            d += begun * (total_delay[at] + (total_delay[at + 1] - total_delay[at]) * part)
            share *= kept[k]
        polls[i] = n + share * polls[best_j]
        delay[i] = d + share * delay[best_j]
    return table


class _Steady:
    """Polls of a waiting job at a constant hazard, one step apart: the start is uniform between two polls."""

    __slots__ = ("_gain", "_means")

    def __init__(self, ahead: tuple[list[float], list[float], list[float]]) -> None:
        # Mean over polls up to each edge after a start: expected cost, polls and delay from there on.
        self._means = [_running_means(values) for values in ahead]
        # Derivative of that cost by the step, times step squared: the best step is where it equals price / rate.
        gain, least = [], 0.0
        for total, mean, edge in zip(ahead[0], self._means[0], EDGES, strict=True):
            least = max(least, (total - mean) * edge)
            gain.append(least)
        self._gain = gain

    def at_rate(self, rate: float, price: float) -> tuple[float, float, float, float]:
        """Time between polls, then expected cost, polls and delay until the end is found."""
        rate = max(rate, NEVER)
        wanted = price / rate
        at = min(bisect_left(self._gain, wanted), BINS)
        below, above = self._gain[at - 1], self._gain[at]
        part = min((wanted - below) / (above - below), 1.0) if above > below else 1.0
        step = EDGES[at - 1] + WIDTHS[at - 1] * part
        polls = -1 / math.expm1(-rate * step)
        cost, later_polls, delay = (values[at - 1] + (values[at] - values[at - 1]) * part for values in self._means)
        return step, price * polls + cost, polls + later_polls, delay


def _running_means(values: Sequence[float]) -> list[float]:
    """Mean from 0 to each edge of the piecewise linear function through `values`."""
    area, means = 0.0, [values[0]]
    for (a, b), width, edge in zip(pairwise(values), WIDTHS, EDGES[1:], strict=False):
        area += (a + b) / 2 * width
        means.append(area / edge)
    return means


def _ahead(rates: Sequence[float], run: Table) -> tuple[list[float], list[float], list[float]]:
    """Expected cost, polls and delay of a run first polled at each edge, without that first poll."""
    alive, late = 1.0, 0.0
    total, polls, delay = [run.cost[0]], [run.polls[0]], [run.delay[0]]
    for at, (rate, width) in enumerate(zip(rates, WIDTHS, strict=True)):
        kept = math.exp(-rate * width)
        late += width - alive * (1 - kept) / max(rate, NEVER)
        alive *= kept
        total.append(late + START_WEIGHT * EDGES[at + 1] + alive * run.cost[at + 1])
        polls.append(alive * run.polls[at + 1])
        delay.append(late + alive * run.delay[at + 1])
    return total, polls, delay


SCHEDULED, LANE, RHYTHM, HEAD, NEW, RETRY, RUN = range(7)
KINDS = ("scheduled", "lane", "rhythm", "head", "new", "retry", "run")
EXPLORATION_PRICE = 8.0
"""Above this price exploration fades: polls that teach would delay polls of jobs that have probably ended."""
MAX_TABLES = 256


class ClassPolicy:
    """Hazards of one class and the tables built from them. A table is identified by (kind, price rung)."""

    __slots__ = ("_rates", "exploration", "tables", "used")

    def __init__(self, rates: list[tuple[float, ...]], exploration: tuple[float, ...] = ()) -> None:
        """`exploration`: lower bound of the run hazard while requests are cheap, one per bin; empty for no bound."""
        self._rates = rates
        self.exploration = exploration
        self.tables: dict[tuple[int, int], Table] = {}
        self.used: set[tuple[int, int]] = set()
        """Tables that plans have used; a new policy builds these first."""

    def rates(self, kind: int) -> tuple[float, ...]:
        """The hazard of one kind, per bin."""
        return self._rates[kind]

    def table(self, kind: int, rung: int) -> Table:
        """The table of one kind at a price rung, built if necessary, and marked as used."""
        self.used.add((kind, rung))
        return self.tables.get((kind, rung)) or self.build(kind, rung)

    def build(self, kind: int, rung: int) -> Table:
        """The table of one kind at a price rung, built if necessary."""
        found = self.tables.get((kind, rung))
        if found is None:
            if len(self.tables) >= MAX_TABLES:
                self.used.discard(oldest := next(iter(self.tables)))
                del self.tables[oldest]
            price = price_of(rung)
            run_rates = self.run_rates(price)
            if kind == RUN:
                found = run_table(run_rates, price)
            else:
                found = wait_table(self._rates[kind], run_rates, self.build(RUN, rung), price)
            self.tables[kind, rung] = found
        return found

    def run_rates(self, price: float) -> tuple[float, ...]:
        """The hazard of runs that plans use at a price, per bin."""
        if not self.exploration:
            return self._rates[RUN]
        share = min((EXPLORATION_PRICE / price) ** 2, 1.0)
        return tuple(max(rate, share * least) for rate, least in zip(self._rates[RUN], self.exploration, strict=True))
