"""Deadlines of what most often is over long before: one task watches them all.

A cancel scope with a deadline costs a short command as much as a wake-up of another processor. Here
a deadline is one entry of a set, and nobody's sleep is shortened unless it is the first of all.
What is called off is only forgotten: the task may wake once for it, finds nothing, and sleeps on.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

_LOG = logging.getLogger("sandbox_runtime")


class Alarm:
    """One deadline.

    Attributes:
        at_s: When it rings, on trio's clock.
        ring: What is called then, which neither waits nor raises.
    """

    __slots__ = ("at_s", "ring")

    def __init__(self, at_s: float, ring: Callable[[], object]) -> None:
        self.at_s = at_s
        self.ring = ring


class Alarms:
    """The deadlines of a runtime. `run` is its task; without it none rings."""

    def __init__(self) -> None:
        self._waiting: set[Alarm] = set()
        self._sleep = trio.CancelScope()
        self._wakes_s = math.inf

    def set(self, at_s: float, ring: Callable[[], object]) -> Alarm:
        """Has something called at a time of trio's clock, once."""
        alarm = Alarm(at_s, ring)
        self._waiting.add(alarm)
        self._wake_by(at_s)
        return alarm

    def call_off(self, alarm: Alarm) -> None:
        """Forgets an alarm, whether it has rung or not."""
        self._waiting.discard(alarm)

    def _wake_by(self, at_s: float) -> None:
        if at_s < self._wakes_s:
            self._wakes_s = self._sleep.deadline = at_s

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            with self._sleep:
                await trio.sleep_forever()
            self._sleep, self._wakes_s = trio.CancelScope(), math.inf
            now_s = trio.current_time()
            for alarm in [one for one in self._waiting if one.at_s <= now_s]:
                self._waiting.discard(alarm)
                try:
                    alarm.ring()
                except Exception:  # noqa: BLE001 - one that fails is not the end of the others
                    _LOG.exception("a deadline could not be kept")
            self._wake_by(min((one.at_s for one in self._waiting), default=math.inf))
