"""The object that `nnaccel.optimize` returns for an ONNX model."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import onnx
import onnx.helper

from nnaccel_core.api import Signature
from nnaccel_core.errors import GuardError, InputError
from nnaccel_core.ir import TensorType, sym
from nnaccel_core.ir.types import common_env
from nnaccel_frontend_onnx.arguments import Argument, argument, declared, unwrapped
from nnaccel_frontend_onnx.assembly import Imported
from nnaccel_frontend_onnx.bridge import ir_dtype, is_array
from nnaccel_frontend_onnx.errors import NeedSizes, NeedValue
from nnaccel_frontend_onnx.importer import SMALL, Pattern, import_model
from nnaccel_frontend_onnx.items import PREDICTION, Array, Mode
from nnaccel_frontend_onnx.loading import Model

if TYPE_CHECKING:
    from nnaccel_core.driver.session import Compiled, Session
    from nnaccel_frontend_onnx.gpu import CupyCudaBridge

#: Values of shape-deciding inputs for which programs are kept at most.
_VALUES = 64
#: Values of an input for which the branch that it chooses is compiled in; beyond, conditions are asked at each call.
_CHOICES = 4
_BATCH = "batch"
_numbers = itertools.count()
_T = TypeVar("_T")


@dataclass
class _Plan:
    """How calls of one kind (dtypes and ranks of the feeds) are compiled."""

    frozen: set[str] = field(default_factory=set)
    #: values met of those among them that decide conditions only; None once these are left to each call
    choices: dict[str, set[bytes]] | None = field(default_factory=dict)
    by_size: bool = False
    by_sample: bool = False


class Network:
    """An ONNX network on one device. Safe to call from several threads; results are new arrays at each call.

    Args:
        model: the checked model; session: where it runs; around: the network whose condition or loop has this one as a body,
            and which tells its notes.
    """

    def __init__(self, model: Model, session: Session, around: Network | None = None) -> None:
        self.model = model
        self.session = session
        self.name = model.name
        #: how the model is imported for prediction
        self.mode: Mode = around.mode if around is not None else PREDICTION
        self._is_body = around is not None
        self._number = next(_numbers)
        self._specs = {v.name: v for v in (*model.inputs, *model.defaults)}
        self._required = [v.name for v in model.inputs]
        self._output_names = [v.name for v in model.outputs]
        self._plans: dict[tuple[Any, ...], _Plan] = {}
        self._imports = 0
        self._imported: dict[tuple[Any, ...], tuple[Compiled, Imported]] = {}
        self._reasons: dict[str, None] = around._reasons if around is not None else {}
        self._hot: dict[Any, tuple[Compiled, tuple[str, ...], tuple[int, ...]]] = {}
        self._deciding: tuple[str, ...] = ()  # inputs whose values are part of the keys of _hot
        self._lock = threading.RLock()
        self._declared = {v.name: declared(v) for v in self._specs.values()}
        #: where the network runs on a GPU, its memory
        self._gpu: CupyCudaBridge | None = session.bridge if session.bridge.device == "cuda" else None  # type: ignore[assignment]
        self._arrays = (np.ndarray,) if self._gpu is None else self._gpu.arrays

    @property
    def inputs(self) -> list[Argument]:
        """What a call must bring, in order."""
        return [argument(v) for v in self.model.inputs]

    @property
    def outputs(self) -> list[Argument]:
        """What a call gives, in order."""
        return [argument(v) for v in self.model.outputs]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network on arrays given in the order of `inputs`, or by name.

        Returns:
            the result, or a tuple of them when there are several.

        Raises:
            InputError: missing or unknown inputs, wrong dtypes, sizes that do not fit.
        """
        results = self._placed_run(self._named(args, kwargs))
        return results[0] if len(results) == 1 else tuple(results)

    def run(self, output_names: Sequence[str] | None, feeds: Mapping[str, Any]) -> list[Any]:
        """The named outputs (all for None) for these inputs, like an inference session's ``run``."""
        results = self._placed_run(dict(feeds))
        if output_names is None:
            return results
        unknown = [n for n in output_names if n not in self._output_names]
        if unknown:
            raise InputError(f"{self.name} has no output {unknown[0]!r}; it has {', '.join(self._output_names)}")
        return [results[self._output_names.index(n)] for n in output_names]

    def notes(self) -> Iterator[str]:
        """For `explain`: nodes that onnx's reference evaluator runs, and calls compiled for their exact sizes."""
        yield from dict(self._reasons)

    # --- one call -------------------------------------------------------------------------------------------------

    def _placed_run(self, given: dict[str, Any]) -> list[Any]:
        """`_run`; on a GPU, results of host arrays alone are brought back, others stay there."""
        gpu = self._gpu
        if gpu is None:
            return self._run(given)
        with gpu.current(self.session.device):
            given = {n: gpu.taken(v) for n, v in given.items()}
            results = self._run(given)
            return [*map(gpu.place if any(map(gpu.is_placed, given.values())) else gpu.fetch, results)]

    def _launched(self, compiled: Compiled, tensors: list[Any]) -> list[Any]:
        """The program's results for these arrays, which are brought to where it runs."""
        return compiled(tensors if self._gpu is None else [self._gpu.place(t) for t in tensors])

    def _run(self, given: dict[str, Any]) -> list[Any]:
        # What was called before with arrays of the same names, shapes and dtypes needs no further look.
        arrays = all(type(v) in self._arrays and v.flags.c_contiguous for v in given.values())
        now = self._key(given) if arrays else None
        hot = self._hot.get(now)
        if hot is not None:
            compiled, order, outputs = hot
            results = self._launched(compiled, [given[n] for n in order])
            return [results[k] for k in outputs]
        feeds = self._checked(given)
        plan = self._plan(feeds)
        if plan.by_sample and self._other_batch(feeds):
            return self._by_sample(feeds)

        def call(compiled: Compiled, imported: Imported, batch: str) -> list[Any]:
            if batch and not keeps_apart(compiled):
                plan.by_sample = True
                self._note("samples are run one by one: the file fixes the batch at 1, and some layers mix samples")
                return self._by_sample(feeds)
            results = self._launched(compiled, [feeds[n] for n in compiled.captured.program.inputs])
            keyed = now is not None and plan.frozen <= set(self._deciding) and now == self._key(given)
            if keyed and given.keys() == feeds.keys() and self._plain(compiled, imported):
                if len(self._hot) > 256:  # sizes come and go
                    self._hot = {}
                places = tuple(k for k in imported.outputs if isinstance(k, int))
                self._hot[now] = compiled, compiled.captured.program.inputs, places
            found = self._outputs(imported, results, feeds)
            if compiled.to_verify:
                self._verify(compiled, imported, results, feeds)
            return found

        return self._settled(feeds, plan, self.mode, call)

    def _key(self, given: dict[str, Any]) -> tuple[Any, ...]:
        """What tells calls apart that need different programs."""
        found = tuple([(n, v.shape, v.dtype) for n, v in given.items()])
        return (*found, *[given[n].tobytes() for n in self._deciding if n in given]) if self._deciding else found

    def _plan(self, feeds: dict[str, Any]) -> _Plan:
        """What is known of calls of this kind."""
        kind = _kind(feeds)
        plan = self._plans.get(kind)
        if plan is None:
            with self._lock:
                plan = self._plans.setdefault(kind, _Plan())
        return plan

    def _settled(self, feeds: dict[str, Any], plan: _Plan, mode: Mode, use: Callable[[Compiled, Imported, str], _T]) -> _T:
        """``use`` of the program for these feeds and of the batch's symbol, where the feeds bring a batch that the file fixes."""
        self._count_choices(feeds, plan)
        for _ in range(4 + len(feeds)):  # each round learns one thing about the network
            try:
                return use(*self._compiled(feeds, plan, mode))
            except NeedValue as e:
                plan.frozen.add(e.name)
                if e.choice and plan.choices is not None:
                    plan.choices[e.name] = {feeds[e.name].tobytes()}
                self._decide(e.name, feeds[e.name])
                what = "a condition" if e.choice else "shapes"
                self._note(f"compiled for each value of input {e.name!r}, which decides {what}")
            except (NeedSizes, GuardError) as e:
                if plan.by_size:
                    raise
                plan.by_size = True
                self._note(f"compiled for each size of the inputs: {e}")
        raise AssertionError("the import does not settle")

    def _decide(self, name: str, value: Array) -> None:
        """The values of an input tell programs apart from now on."""
        with self._lock:
            if name not in self._deciding and value.size <= SMALL:
                self._deciding = (*self._deciding, name)
                self._hot = {}

    def _count_choices(self, feeds: dict[str, Any], plan: _Plan) -> None:
        """Once inputs that decide conditions take many values, conditions are asked at each call instead."""
        if not plan.choices:
            return
        for name, values in plan.choices.items():
            values.add(feeds[name].tobytes())
            if len(values) > _CHOICES:
                self._note(f"input {name!r}, which decides a condition, takes many values: the condition is asked at each call")
                plan.frozen -= set(plan.choices)
                plan.choices = None
                return

    def _plain(self, compiled: Compiled, imported: Imported) -> bool:
        """Whether all results are new tensors, each returned once, so that nothing is left to do with them."""
        program = compiled.captured.program
        made = {o for s in program.segments() for o in s.outputs}
        distinct = [k for k in imported.outputs if isinstance(k, int)]
        ours = all(o in made for o in program.outputs) and len(set(program.outputs)) == len(program.outputs)
        return not compiled.to_verify and not imported.fixed and ours and len(distinct) == len(imported.outputs)

    def _compiled(self, feeds: dict[str, Any], plan: _Plan, mode: Mode) -> tuple[Compiled, Imported, str]:
        """The program for these feeds."""
        batch = ""
        exact = plan.by_size
        if not exact:
            env: dict[str, int] = {}
            fits = all(is_array(v) and self._fits(n, v, env) for n, v in feeds.items() if n not in plan.frozen)
            if not fits:
                batch = self._other_batch(feeds)
                exact = not batch
        if exact and self._other_batch(feeds):
            batch = _BATCH  # sizes are numbers, but reshapes to the declared batch still have to follow
        host = self._host
        values = {n: host(feeds[n]) for n in feeds if n in plan.frozen}
        key: tuple[Any, ...] = (_kind(feeds), mode.train, exact, batch, *((n, v.shape, v.tobytes()) for n, v in values.items()))
        if exact:
            key += tuple(v.shape for v in feeds.values() if is_array(v))
        found = self._imported.get(key)
        if found is None or not self._holds(found[1]):
            with self._lock:
                found = self._imported.get(key)
                if found is None or not self._holds(found[1]):
                    found = self._import(key, feeds, values, exact, batch, mode)
        return (*found, "" if exact else batch)

    def _holds(self, imported: Imported) -> bool:
        """Whether the parameters that were taken as fixed are still what they were."""
        return all(np.array_equal(self.model.initializers[n], v, equal_nan=True) for n, v in imported.fixed.items())

    def _import(
        self, key: tuple[Any, ...], feeds: dict[str, Any], values: dict[str, Array], exact: bool, batch: str, mode: Mode
    ) -> tuple[Compiled, Imported]:
        patterns = {n: self._pattern(n, v, exact, batch) for n, v in feeds.items()}
        plan = self._plan(feeds)
        choices = () if plan.choices is None or self._is_body else tuple(feeds)
        def make(body: Model) -> Network:
            return Network(body, self.session, self)

        imported = import_model(self.model, patterns, values, batch, make, mode, choices)
        if self._gpu is not None:
            imported.captured = self._gpu.around_host(imported.captured)
        types = tuple(TensorType(p.shape, p.dtype) for p in patterns.values() if p.dtype is not None)
        signature = Signature(types, training=mode.train, grad=mode.train)
        fixed = tuple((n, v.tobytes()) for n, v in imported.fixed.items())
        compiled = self.session.compiled(("onnx", self._number, key, fixed), signature, lambda: imported.captured)
        self._imports += 1
        if self._imports > _VALUES * 4:
            self._imports = 0
            self._imported.clear()
            self.session.forget()
        self._imported[key] = compiled, imported
        for line in imported.captured.reason.splitlines()[1:]:
            self._note(line)
        return compiled, imported

    def _pattern(self, name: str, value: Any, exact: bool, batch: str) -> Pattern:
        found = Pattern.of_array(value)
        if exact or found.dtype is None:
            return found
        declared = self._declared[name]
        if declared is None:
            return Pattern(found.dtype, tuple(sym(f"{name}_{k}") for k in range(len(found.shape))))
        shape = tuple(sym(batch) if batch and k == 0 else d for k, d in enumerate(declared))
        return Pattern(found.dtype, shape)

    def _fits(self, name: str, value: Array, env: dict[str, int]) -> bool:
        declared = self._declared[name]
        return declared is None or common_env(declared, value.shape, env)

    def _other_batch(self, feeds: dict[str, Any]) -> str:
        """The batch symbol, when the feeds are what the file declares but for a first axis that it fixes at 1."""
        sizes = set()
        for name, value in feeds.items():
            declared = self._declared[name]
            if not is_array(value) or not declared or declared[0] != 1 or value.ndim != len(declared):
                return ""
            if not common_env(declared[1:], value.shape[1:], {}):
                return ""
            sizes.add(value.shape[0])
        return _BATCH if len(sizes) == 1 and sizes != {1} else ""

    def _outputs(self, imported: Imported, results: list[Any], feeds: dict[str, Any]) -> list[Any]:
        """The network's outputs: new arrays, each its own."""
        taken: set[int] = {id(v) for v in feeds.values()}
        out = []
        for info, spec in zip(self.model.outputs, imported.outputs, strict=True):
            value = results[spec] if isinstance(spec, int) else spec
            if info.type.HasField("optional_type"):
                value = unwrapped(info.type.optional_type.elem_type, value)
            if is_array(value) and (id(value) in taken or not isinstance(spec, int)):
                value = value.copy()
            taken.add(id(value))
            out.append(value)
        return out

    def _verify(self, compiled: Compiled, imported: Imported, results: list[Any], feeds: dict[str, Any]) -> None:
        """Compare a call with onnx's reference evaluator, for ``optimize(..., verify=True)``."""
        import onnx.reference

        from nnaccel_core.driver.verify import check

        host = {n: self._host(v) for n, v in feeds.items()}
        with np.errstate(all="ignore"):
            want = onnx.reference.ReferenceEvaluator(self.model.proto).run(None, {**self.model.initializers, **host})
        found = [self._host(r) for r in results]
        pairs = [(found[s], w) for s, w in zip(imported.outputs, want, strict=True) if isinstance(s, int)]
        tensors = [(a, np.asarray(b)) for a, b in pairs if isinstance(a, np.ndarray) and ir_dtype(a.dtype) is not None]
        given = [feeds[n] for n in compiled.captured.program.inputs]
        check(compiled, given, [a for a, _ in tensors], [b for _, b in tensors])

    def _by_sample(self, feeds: dict[str, Any]) -> list[Any]:
        count = next(iter(feeds.values())).shape[0]
        runs = [self._run({n: v[k : k + 1] for n, v in feeds.items()}) for k in range(count)]
        join = np.concatenate if self._gpu is None else self._gpu.concatenate
        return [join(parts) for parts in zip(*runs, strict=True)]

    def _host(self, value: Any) -> Any:
        """``value`` in host memory."""
        return value if self._gpu is None else self._gpu.fetch(value)

    def _note(self, text: str) -> None:
        self._reasons.setdefault(text)

    # --- arguments ------------------------------------------------------------------------------------------------

    def _named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments of a call by name.

        Raises:
            InputError: too many, or one twice.
        """
        if len(args) > len(self._specs):
            raise InputError(f"{self.name} takes {len(self._specs)} inputs ({', '.join(self._specs)}), got {len(args)}")
        feeds = dict(zip(self._specs, args, strict=False))
        for name, value in kwargs.items():
            if name in feeds:
                raise InputError(f"input {name!r} of {self.name} is given twice")
            feeds[name] = value
        return feeds

    def _checked(self, given: dict[str, Any]) -> dict[str, Any]:
        """The feeds in the order of the inputs, as dense arrays of the declared dtypes.

        Raises:
            InputError: as for a call.
        """
        for name in given:
            if name not in self._specs:
                raise InputError(f"{self.name} has no input {name!r}; it has {', '.join(self._specs) or 'none'}")
        missing = [n for n in self._required if n not in given and not self._specs[n].type.HasField("optional_type")]
        if missing:
            raise InputError(f"{self.name} needs the input{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))}")
        feeds = {}
        for name, spec in self._specs.items():
            if name in given or name in self._required:
                feeds[name] = self._argument(name, spec, given.get(name))
        return feeds

    def _argument(self, name: str, spec: onnx.ValueInfoProto, value: Any) -> Any:
        if not spec.type.HasField("tensor_type"):
            return value
        try:
            wanted = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(spec.type.tensor_type.elem_type))
        except KeyError:
            return value
        if not is_array(value):
            if isinstance(value, np.generic) or hasattr(value, "__array__"):
                value = np.asarray(value)
            elif hasattr(value, "__dlpack__"):
                value = np.from_dlpack(value)
            else:
                try:
                    value = np.asarray(value, None if wanted.hasobject else wanted)
                except (TypeError, ValueError) as e:
                    raise InputError(f"input {name!r} of {self.name} is no tensor: {e}") from e
        if value.dtype != wanted and not wanted.hasobject and ir_dtype(wanted) is not None:
            raise InputError(f"input {name!r} of {self.name} has dtype {value.dtype}; it takes {wanted}: x.astype('{wanted}')")
        self._check_shape(name, spec, value)
        if not value.flags.c_contiguous:
            value = self.session.bridge.dense(value)
        return value

    def _check_shape(self, name: str, spec: onnx.ValueInfoProto, value: Array) -> None:
        if not spec.type.tensor_type.HasField("shape"):
            return
        dims = spec.type.tensor_type.shape.dim
        fits = len(dims) == value.ndim and all(
            not d.HasField("dim_value") or d.dim_value == size or (k == 0 and d.dim_value == 1)
            for k, (d, size) in enumerate(zip(dims, value.shape, strict=False))
        )
        if not fits:
            wanted = list(argument(spec).shape or ())
            raise InputError(f"input {name!r} of {self.name} has shape {list(value.shape)}; it takes {wanted}")


def _kind(feeds: Mapping[str, Any]) -> tuple[Any, ...]:
    """Names, dtypes and ranks of the feeds."""
    return tuple((n, v.dtype.str, v.ndim) if is_array(v) else (n, "") for n, v in feeds.items())


def keeps_apart(compiled: Compiled) -> bool:
    """Whether the program surely gives each sample what it would give it alone."""
    segments = list(compiled.segments.values())
    parts = compiled.captured.program.parts
    return len(segments) == len(parts) and all(s.batch == _BATCH for s in segments)


__all__ = ["Argument", "Network", "keeps_apart"]
