"""Schedules of chains: every row in time, none twice within a strip, and no more held than is said."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nnaccel_core.select.schedule import Layer, Window, reach, schedule

windows = st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 6)).map(lambda t: Window(t[0], -t[1], t[2] - t[1]))


@st.composite
def chains(draw):
    """Layers from the last one backwards, each read by one or two behind it as a convolution with padding would."""
    count = draw(st.integers(1, 5))
    layers = [Layer(draw(st.integers(1, 23)))]
    for _ in range(count - 1):
        behind = len(layers)
        k = draw(st.integers(0, behind - 1))
        w = draw(windows)
        readers = [(k, w)]
        if draw(st.booleans()) and k > 0:
            readers.append((0, Window(w.stride * whole(layers, k), 0, 0)))
        # as many rows as the reader's last one needs, some of them perhaps padding
        height = max(1, w.stride * (layers[k].height - 1) + draw(st.integers(max(1, w.hi - 1), max(1, w.hi) + 2)))
        layers.append(Layer(height, tuple(readers)))
    # from the first layer on
    last = len(layers) - 1
    return [Layer(x.height, tuple((last - k, w) for k, w in x.readers)) for x in layers[::-1]]


def whole(layers, k):
    """The stride of layer ``k`` over rows of the last one."""
    stride = 1
    while layers[k].readers:
        k, w = layers[k].readers[0]
        stride *= w.stride
    return stride


@settings(max_examples=300, deadline=None)
@given(chains(), st.integers(1, 5), st.integers(1, 9))
def test_every_row_is_there_when_it_is_read(layers, strips, band):
    found = schedule(layers, strips, band)
    stored: list[int] = []
    for s in range(strips):
        held: dict[int, set[int]] = {m: set() for m, x in enumerate(layers) if x.readers}
        computed: dict[int, list[int]] = {m: [] for m in range(len(layers))}
        for b in range(found.bands):
            rows, first = found.rows[s][b], found.first[s][b]
            for m, layer in enumerate(layers):
                begin, end = rows[m]
                assert 0 <= begin <= end <= layer.height
                for k, other in enumerate(layers[:m]):
                    for reader, w in other.readers:
                        if reader != m:
                            continue
                        for r in range(begin, end):
                            needed = set(range(w.stride * r + w.lo, w.stride * r + w.hi + 1)) & set(range(other.height))
                            assert needed <= {x for x in held[k] if x >= first[k]}
                computed[m] += range(begin, end)
                if layer.readers:
                    held[m] |= set(range(begin, end))
                    kept = {r for r in held[m] if r >= first[m]}
                    assert len(kept) <= found.held[m] and (not kept or max(kept) - first[m] < found.held[m])
        for m, layer in enumerate(layers):
            assert len(set(computed[m])) == len(computed[m])
            if not layer.readers:
                stored += computed[m]
    assert sorted(stored) == list(range(layers[-1].height))


def test_halos_of_a_chain_add_up() -> None:
    layers = [Layer(56, ((1, Window(1, -1, 1)),)), Layer(56, ((2, Window(2, -1, 1)),)), Layer(28)]
    assert reach(layers) == [Window(2, -2, 2), Window(2, -1, 1), Window()]
    found = schedule(layers, 2, 4)
    assert found.rows[0][0] == ((0, 9), (0, 8), (0, 4)) and found.rows[0][1] == ((9, 17), (8, 16), (4, 8))
    assert found.rows[1][0] == ((26, 37), (27, 36), (14, 18))  # rows 26 to 29 are computed a second time
    assert found.first[0][1] == (7, 7, 0) and found.held[:2] == (11, 9)


def test_readers_at_different_strides_have_no_common_rows() -> None:
    assert reach([Layer(8, ((1, Window(1)), (2, Window(2)))), Layer(8), Layer(4)]) is None
