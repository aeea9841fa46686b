"""Memory that many share: who has much leaves some for who has little."""

from __future__ import annotations

from sandbox_runtime.budget import Budget, Claim


def test_without_a_reserve_one_may_have_all() -> None:
    budget = Budget(100)
    assert Claim(budget).take(150) == 100
    assert Claim(budget).take(1) == 0


def test_who_asks_for_much_leaves_most_of_the_reserve() -> None:
    budget = Budget(8000, reserve_bytes=1000)
    greedy = Claim(budget)
    assert greedy.take(10_000) == 7000
    assert greedy.take(1) == 0
    assert budget.free_bytes == 1000


def test_each_that_comes_later_has_a_share_of_what_is_left() -> None:
    budget = Budget(8000, reserve_bytes=1000)
    Claim(budget).take(8000)
    shares = [Claim(budget).take(500) for _ in range(20)]
    assert shares[:3] == [125, 109, 95]
    assert min(shares) > 0


def test_a_share_cannot_be_taken_twice() -> None:
    budget = Budget(8000, reserve_bytes=1000)
    Claim(budget).take(8000)
    one = Claim(budget)
    assert one.take(125) == 125
    assert one.take(125) == 0


def test_what_is_given_back_is_there_for_all() -> None:
    budget = Budget(8000, reserve_bytes=1000)
    greedy = Claim(budget)
    greedy.take(8000)
    greedy.give_back()
    assert budget.free_bytes == 8000
    assert Claim(budget).take(7000) == 7000
