from gridnode.model import Address, NodeId
from gridnode.swim.addresses import Addresses, Place

A, B = NodeId("a" * 40), NodeId("b" * 40)
ONE, TWO, THREE = (Address(f"10.0.0.{number}", 7400) for number in (1, 2, 3))


def table(most: int = 640) -> Addresses:
    return Addresses(0.25, 5.0, most)


def due(addresses: Addresses, now: float, answer: bool | None = True) -> list[Address]:
    return list(addresses.due(now, lambda place: answer))


def test_one_that_nobody_wants_rests_until_it_is_roused() -> None:
    addresses = table()
    addresses.add(ONE, A, False, 0.0)
    assert due(addresses, 1.0, None) == []
    assert due(addresses, 9.0) == []
    addresses.rouse(A, 10.0)
    assert due(addresses, 10.0) == [ONE]
    addresses.rouse(A, 10.0)
    addresses.wake(A, 10.0)
    assert due(addresses, 20.0) == [], "it is being dialled"


def test_one_whose_turn_has_not_come_is_asked_about_again() -> None:
    addresses = table()
    addresses.add(ONE, A, False, 0.0)
    assert due(addresses, 1.0, False) == []
    assert due(addresses, 1.4) == []
    assert due(addresses, 1.5) == [ONE]


def test_waking_is_for_sooner_and_failing_for_later() -> None:
    addresses = table()
    addresses.add(ONE, A, False, 100.0)
    addresses.wake(A, 5.0)
    addresses.wake(A, 50.0)
    assert due(addresses, 5.0) == [ONE]
    addresses.failed(ONE, 5.0, longer=30.0, needed=True)
    assert due(addresses, 34.9) == []
    assert due(addresses, 35.0) == [ONE]


def test_a_node_is_out_of_reach_when_every_address_has_failed() -> None:
    addresses = table()
    for address in (ONE, TWO):
        addresses.add(address, A, False, 0.0)
    assert set(addresses.dial(A, 4, 1.0)) == {ONE, TWO}
    assert addresses.dial(A, 4, 1.0) == []
    addresses.failed(ONE, 1.0, 0.0, needed=True)
    assert not addresses.is_out_of_reach(A, 1.0)
    addresses.failed(TWO, 1.0, 0.0, needed=True)
    assert addresses.is_out_of_reach(A, 1.0)
    assert not addresses.is_out_of_reach(A, 2.0), "what was begun before says nothing"
    addresses.reached(A)
    assert not addresses.is_out_of_reach(A, 1.0)


def test_who_turns_out_to_be_another_is_known_as_that() -> None:
    addresses = table()
    addresses.add(ONE, A, False, 0.0)
    addresses.led(ONE, B)
    assert (addresses.of(A), addresses.of(B)) == ([], [ONE])
    assert addresses.places[ONE].good
    addresses.found_self(ONE)
    assert addresses.of(B) == []
    assert due(addresses, 100.0) == []


def test_no_node_fills_the_table_and_forgetting_one_makes_room() -> None:
    addresses = table(640)
    for number in range(1000):
        addresses.add(Address("10.1.0.1", number + 1), A, False, 0.0)
    assert len(addresses.of(A)) == 10
    addresses.add(ONE, A, True, 0.0)
    addresses.forget(A)
    assert addresses.places == {ONE: Place(None, True, 0.0)}, "but for the seed"
