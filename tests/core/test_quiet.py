"""Garbage collection pauses while a network is planned, and is left as it was."""

from __future__ import annotations

import gc

import pytest

from nnaccel_core.driver.quiet import no_collections


def test_blocks_nest_and_the_last_one_turns_collections_on() -> None:
    assert gc.isenabled()
    with no_collections():
        with no_collections():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_an_error_turns_collections_on() -> None:
    with pytest.raises(ValueError), no_collections():
        raise ValueError
    assert gc.isenabled()


def test_what_the_user_turned_off_stays_off() -> None:
    gc.disable()
    try:
        with no_collections():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
