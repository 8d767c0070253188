"""ONNX networks that are trained: forward and backward passes, parameters as live arrays."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from nnaccel_core.errors import InputError, UnsupportedError
from nnaccel_frontend_onnx.assembly import Imported
from nnaccel_frontend_onnx.bridge import Tracked, aligned
from nnaccel_frontend_onnx.items import Array, Mode, trainable
from nnaccel_frontend_onnx.loading import Model
from nnaccel_frontend_onnx.network import Network, keeps_apart
from nnaccel_frontend_onnx.saving import save, with_values
from nnaccel_frontend_onnx.tape import Tape, reached

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Compiled, Session

#: What `TrainableNetwork.backward` takes: an array, or arrays in the order of the outputs or by their names.
Gradients = Any


class TrainableNetwork(Network):
    """An ONNX network whose parameters are trained: what `nnaccel.optimize(model, train=True)` gives.

    A step is `forward`, `backward` with the gradients of the loss with respect to the outputs, and whatever the caller then does
    to the arrays of `parameters` with those of `gradients`. Calls and ``run`` predict, with the parameters as they are.

    Attributes:
        random: what dropout draws from; replace it by ``numpy.random.default_rng(seed)`` for results that repeat.

    Args:
        model: the checked model; session: where it runs.

    Raises:
        InputError: the model has no parameters.
    """

    def __init__(self, model: Model, session: Session) -> None:
        initializers = dict(model.initializers)
        self._parameters: dict[str, Array] = {}
        for name, array in model.initializers.items():
            if trainable(array):
                initializers[name] = self._parameters[name] = aligned(array.shape, array.dtype)
                self._parameters[name][...] = array
        super().__init__(replace(model, initializers=initializers), session)
        if not self._parameters:
            raise InputError(
                f"{self.name} has no parameters to train: none of its initializers is of float16, float32 or float64 "
                f"(values of Constant nodes are constants)"
            )
        self.random = np.random.default_rng()
        self.mode = Mode(live=True)
        self._training = Mode(live=True, random=lambda: self.random)
        self._watched: tuple[str, ...] = ()
        self._tape: Tape | None = None
        self._results: list[Any] = []
        self._stopped: list[str | None] = []
        self._feeds: dict[str, Any] = {}
        self._names: dict[int, str] = {}
        self._gradients: dict[str, Array] | None = None

    def parameters(self) -> dict[str, Array]:
        """All floating-point initializers by name, as the arrays that the network reads: changed in place (``p -= lr * g``),
        they change the next call. Running statistics of BatchNormalization are among them."""
        return dict(self._parameters)

    def gradients(self) -> dict[str, Array]:
        """The gradients that the last `backward` found, by parameter; of its shape and dtype. Parameters that the given outputs
        do not depend on are not among them, nor running statistics, nor what only says how an operator works (the bounds of
        Clip, exponents of Pow, scales of Resize).

        Raises:
            InputError: `backward` was not called yet.
        """
        if self._gradients is None:
            raise InputError(f"{self.name} has no gradients yet: call forward(), then backward()")
        return dict(self._gradients)

    def watch(self, *names: str) -> None:
        """From the next `forward` on, have `backward` return the gradients of these inputs (of no others; none at first).

        Raises:
            InputError: there is no such input, or its elements are no floating-point numbers.
        """
        known = {a.name: a.type for a in self.inputs}
        for name in names:
            if name not in known:
                raise InputError(f"{self.name} has no input {name!r}; it has {', '.join(known) or 'none'}")
            if known[name] not in ("tensor(float16)", "tensor(float)", "tensor(double)"):
                raise InputError(f"input {name!r} of {self.name} is a {known[name]}, which has no gradient")
        self._watched = tuple(dict.fromkeys(names))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The forward pass of a training step, on arrays given as for a call.

        Differs from a call in what the file says of training: Dropout in training mode draws its factors, and BatchNormalization
        training mode writes its running statistics, where they are initializers. What the file has for prediction stays so.
        Until `backward` has run, neither the arrays given nor the parameters must change.

        Returns:
            the result, or a tuple of them when there are several.

        Raises:
            InputError: as for a call; UnsupportedError: something without a gradient stands between the parameters and all
            outputs, or on the way through a compiled part; names the node.
        """
        feeds = self._checked(self._named(args, kwargs))
        with self._lock:
            self._tape = None
            self.session.refresh()

            def use(compiled: Compiled, imported: Imported, batch: str) -> list[Any]:
                if batch:
                    self._check_batch(feeds)
                return self._recorded(compiled, imported, feeds)

            results = self._settled(feeds, self._plan(feeds), self._training, use)
        return results[0] if len(results) == 1 else tuple(results)

    def backward(self, grads: Gradients) -> dict[str, Array]:
        """The backward pass: fills `gradients`.

        Args:
            grads: the gradients of the loss with respect to the outputs of the last `forward`, of their shapes and dtypes: an
                array for a network of one output, a list or tuple in the order of `outputs` (None for outputs that the loss does
                not depend on), or a dictionary by names.

        Returns:
            the gradients of the inputs that `watch` named, by name.

        Raises:
            InputError: `forward` did not run before, or its backward pass was done; gradients that do not fit the outputs.
            UnsupportedError: an output given here depends on parameters through something without a gradient; names the node.
        """
        with self._lock:
            tape = self._tape
            if tape is None:
                once = "; the one before has been gone back already" if self._gradients is not None else " before it"
                raise InputError(f"{self.name}: backward() needs a forward() of its own{once}")
            found: dict[int, Array] = {}
            for k, grad in self._seeds(grads).items():
                result = self._results[k]
                before = found.get(id(result))
                found[id(result)] = grad if before is None else before + grad
            self._tape = None
            tape.backward(found)
            self._gradients = {name: found[key] for key, name in self._names.items() if key in found}
            tracked = {n: v for n, v in self._feeds.items() if type(v) is Tracked}
            of_inputs = {n: found.get(id(v)) for n, v in tracked.items()}
            zeros = {n: np.zeros(v.shape, v.dtype) for n, v in tracked.items()}
            self._results, self._feeds = [], {}
            return {n: zeros[n] if g is None else g for n, g in of_inputs.items()}

    def proto(self) -> onnx.ModelProto:
        """The model with its parameters as they are now."""
        return with_values(self.model)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model with its parameters as they are now, as an ONNX file, which is replaced at once, when it is complete.

        Local functions come out inlined; initializers of more than 2 GiB in all go into a file beside it.

        Raises:
            InputError: the file cannot be written.
        """
        save(self.model, Path(path))

    # --- one step -------------------------------------------------------------------------------------------------

    def _run(self, given: dict[str, Any]) -> list[Any]:
        # Nothing tells that a parameter has changed, so what was derived from them is derived again.
        self.session.refresh()
        return super()._run(given)

    def _check_batch(self, feeds: dict[str, Any]) -> None:
        """Whether samples can be trained on together though the file has the batch fixed at 1.

        Raises:
            UnsupportedError: a layer mixes them.
        """
        apart = self._settled(feeds, self._plan(feeds), self.mode, lambda compiled, _, batch: not batch or keeps_apart(compiled))
        if not apart:
            raise UnsupportedError(
                f"{self.name} has its batch fixed at 1, and some layers mix samples: train on one sample at a time, or export "
                f"the network with a batch of any size"
            )

    def _recorded(self, compiled: Compiled, imported: Imported, feeds: dict[str, Any]) -> list[Any]:
        captured = imported.captured
        state = reached(imported, self._watched)
        own = list(self._parameters.values())
        stopped: list[str | None] = []
        for spec in imported.outputs:
            if isinstance(spec, int):
                stopped.append(state.get(captured.program.outputs[spec]))
            else:
                stopped.append("it is a parameter itself" if any(spec is p for p in own) else None)
        if "" not in stopped:
            why = next((text for text in stopped if text), "no output depends on them through floating-point numbers")
            raise UnsupportedError(f"{self.name} can't be trained: {why}")
        tape = Tape()
        marked = {n: v.view(Tracked) if n in self._watched else v for n, v in feeds.items()}
        everything = {**marked, **{n: self._parameters[parameter] for n, parameter in imported.written.items()}}
        results = compiled([everything[n] for n in captured.program.inputs], tape.record)
        given = {id(v): feeds[n] for n, v in marked.items()}
        plain = [given.get(id(r), r.view(np.ndarray) if type(r) is Tracked else r) for r in results]
        self._tape, self._stopped, self._feeds = tape, stopped, marked
        self._results = [results[s] if isinstance(s, int) else None for s in imported.outputs]
        self._names = {id(get()): imported.parameter_of[name] for name, get in captured.tracked.items()}
        return self._outputs(imported, plain, feeds)

    def _seeds(self, grads: Gradients) -> dict[int, Array]:
        """The gradients given, by output.

        Raises:
            InputError, UnsupportedError: as for `backward`.
        """
        names = self._output_names
        if isinstance(grads, Mapping):
            unknown = [n for n in grads if n not in names]
            if unknown:
                raise InputError(f"{self.name} has no output {unknown[0]!r}; it has {', '.join(names)}")
            given = {names.index(n): g for n, g in grads.items() if g is not None}
        elif isinstance(grads, (list, tuple)):
            if len(grads) != len(names):
                raise InputError(f"{self.name} has {len(names)} outputs ({', '.join(names)}), got {len(grads)} gradients")
            given = {k: g for k, g in enumerate(grads) if g is not None}
        elif len(names) == 1:
            given = {0: grads}
        else:
            raise InputError(f"{self.name} has {len(names)} outputs: give their gradients as a list, or by name")
        if not given:
            raise InputError(f"backward() of {self.name} got the gradient of no output")
        return {k: self._seed(k, g) for k, g in given.items()}

    def _seed(self, k: int, grad: Any) -> Array:
        name, result = self._output_names[k], self._results[k]
        if self._stopped[k]:
            raise UnsupportedError(f"output {name!r} of {self.name} can't be trained through: {self._stopped[k]}")
        if not isinstance(result, np.ndarray) or not trainable(result):
            kind = f"is of {result.dtype}" if isinstance(result, np.ndarray) else "is a constant or no tensor"
            raise InputError(f"output {name!r} of {self.name} {kind}, and has no gradient")
        array, what = np.asarray(grad), f"the gradient of output {name!r}"
        if array.shape != result.shape:
            raise InputError(f"{what} has shape {list(array.shape)}; the output's is {list(result.shape)}")
        if array.dtype != result.dtype:
            raise InputError(f"{what} has dtype {array.dtype}; the output's is {result.dtype}: g.astype('{result.dtype}')")
        return array


__all__ = ["TrainableNetwork"]
