"""Discovery, guarded loading and every refusal, on third-party plug-ins made here."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from nnaccel_core.api import API, Pass
from nnaccel_core.errors import DeviceError, PluginError
from nnaccel_core.hooks.ordering import order_passes

BACKEND = """
    from nnaccel_core.hooks import hookimpl

    @hookimpl
    def nnaccel_register_backends():
        from nnaccel_core.api import Backend, Machine

        class Toy(Backend):
            api = {api}
            name = "toy"
            devices = ("{device}",)

            @classmethod
            def probe(cls):
                return {machine}

            def printer(self): ...
            def build(self, plan, options): ...
            def memory(self, nbytes): ...

        return [Toy]
"""
MACHINE = 'Machine("toy", "a toy", "avx2", 1, 32, 1, 1, 1, 1.0, 1.0)'

FRONTEND = """
    from nnaccel_core.hooks import hookimpl

    @hookimpl
    def nnaccel_register_frontends():
        from nnaccel_core.api import Frontend

        class Lists(Frontend):
            api = 0
            name = "lists"

            @classmethod
            def accepts(cls, model):
                return isinstance(model, list)

            @classmethod
            def default_device(cls, model):
                return "cpu"

            def capture(self, model, call): ...
            def wrap(self, model, session): ...

        return [Lists]
"""


def backend(device: str = "toy", api: int = 0, machine: str = MACHINE) -> str:
    return BACKEND.format(api=api, device=device, machine=machine)


def test_listing_imports_nothing(make_plugin, new_manager):
    module = make_plugin("broken", "raise RuntimeError('imported')")
    (info,) = new_manager().list_plugins()
    assert (info.name, info.package, info.version, info.state) == ("broken", "acme-broken", "1.0", "available")
    assert module not in sys.modules


def test_backend_is_found_by_device_and_index(make_plugin, new_manager):
    make_plugin("toy", backend())
    cls, device = new_manager().backend_for(" TOY:1 ")
    assert cls.name == "toy" and device == "toy:1"


def test_unknown_device_lists_what_is_installed(make_plugin, new_manager):
    make_plugin("toy", backend())
    with pytest.raises(DeviceError, match="no backend for device 'npu'; devices installed: toy"):
        new_manager().backend_for("npu")


def test_unknown_device_of_a_known_extra_names_the_command(new_manager):
    with pytest.raises(DeviceError, match=r"pip install 'nnaccel\[x86\]'"):
        new_manager().backend_for("cpu")


def test_unknown_framework_of_a_known_extra_names_the_command(new_manager):
    model = type("Net", (), {"__module__": "torch.nn.modules"})()
    with pytest.raises(PluginError, match=r"no frontend accepts a torch.nn.modules.Net.*pip install 'nnaccel\[torch\]'"):
        new_manager().frontend_for(model)


def test_absent_hardware(make_plugin, new_manager):
    make_plugin("toy", backend(machine="None"))
    with pytest.raises(DeviceError, match=r"'toy' is not present on this machine .*'toy' of acme-toy.*nnaccel doctor"):
        new_manager().backend_for("toy")


def test_broken_plugin_does_not_disturb_others(make_plugin, new_manager):
    make_plugin("broken", "import no_such_library")
    make_plugin("lists", FRONTEND)
    manager = new_manager()
    assert manager.frontend_for([]).name == "lists"
    states = {i.name: i.state for i in manager.list_plugins()}
    assert states == {"broken": "broken", "lists": "loaded"}


def test_broken_plugin_fails_when_asked_for(make_plugin, new_manager):
    make_plugin("broken", "import no_such_library", version="2.5")
    manager = new_manager()
    match = r"'broken' \(package acme-broken 2.5\).*ModuleNotFoundError.*no_such_library"
    with pytest.raises(PluginError, match=match) as caught:
        manager.plugins.load("broken")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    # What asked for a device that the broken one may have served is told of it too.
    with pytest.raises(PluginError, match="no backend for device 'cpu'.*\n.*not usable.*acme-broken 2.5.*no_such_library"):
        manager.backend_for("cpu")


def test_a_plugin_that_exits_is_guarded_too(make_plugin, new_manager):
    make_plugin("exits", "raise SystemExit(3)")
    with pytest.raises(PluginError, match="SystemExit: 3"):
        new_manager().plugins.load("exits")


def test_broken_module_is_imported_once(make_plugin, new_manager, tmp_path):
    make_plugin("broken", f"open({str(tmp_path / 'count')!r}, 'a').write('x')\nraise ValueError('no')")
    manager = new_manager()
    for _ in range(3):
        with pytest.raises(PluginError, match="ValueError: no"):
            manager.plugins.load("broken")
    assert (tmp_path / "count").read_text() == "x"


def test_duplicate_name_names_both_packages(make_plugin, new_manager):
    make_plugin("toy", backend(), package="acme-toy")
    make_plugin("toy", backend(), package="zeta-toy", version="3.1")
    manager = new_manager()
    with pytest.raises(PluginError, match=r"two plug-ins are named 'toy': packages acme-toy 1.0 and zeta-toy 3.1"):
        manager.plugins.load("toy")
    with pytest.raises(PluginError, match=r"acme-toy 1.0 and zeta-toy 3.1"):
        manager.backend_for("toy")
    assert [i.state for i in manager.list_plugins()] == ["broken", "broken"]


def test_two_backends_for_one_device(make_plugin, new_manager):
    make_plugin("one", backend())
    make_plugin("two", backend())
    with pytest.raises(PluginError, match="device 'toy' is claimed by Toy of package acme-one and Toy of package acme-two"):
        new_manager().backend_for("toy")


def test_two_frontends_for_one_model(make_plugin, new_manager):
    make_plugin("one", FRONTEND)
    make_plugin("two", FRONTEND)
    match = "builtins.list is accepted by Lists of package acme-one and Lists of package acme-two"
    with pytest.raises(PluginError, match=match):
        new_manager().frontend_for([])


def test_wrong_api_names_both_versions(make_plugin, new_manager):
    make_plugin("toy", backend(api=API + 7))
    core = metadata.version("nnaccel-core")
    match = rf"acme-toy 1.0.*Toy is written for plug-in API {API + 7}; nnaccel-core {core} supports API 0"
    with pytest.raises(PluginError, match=match):
        new_manager().backend_for("toy")


def test_negative_api_asks_for_a_newer_plugin(make_plugin, new_manager):
    make_plugin("toy", backend(api=-1))
    with pytest.raises(PluginError, match="upgrade acme-toy"):
        new_manager().backend_for("toy")


def test_raising_hook(make_plugin, new_manager):
    make_plugin("toy", """
        from nnaccel_core.hooks import hookimpl
        @hookimpl
        def nnaccel_register_backends():
            raise OSError("driver is gone")
    """)  # fmt: skip
    with pytest.raises(PluginError, match="acme-toy 1.0.*failed in nnaccel_register_backends: OSError: driver is gone"):
        new_manager().backend_for("toy")


def test_raising_accepts_is_reported_when_nobody_else_accepts(make_plugin, new_manager):
    make_plugin("lists", FRONTEND.replace("return isinstance(model, list)", "return 1 / 0"))
    with pytest.raises(PluginError, match="acme-lists: Lists.accepts failed: ZeroDivisionError"):
        new_manager().frontend_for([])


def test_raising_probe(make_plugin, new_manager):
    make_plugin("toy", backend(machine="1 / 0"))
    with pytest.raises(PluginError, match="acme-toy: Toy.probe failed: ZeroDivisionError"):
        new_manager().backend_for("toy")


def test_registering_the_wrong_kind(make_plugin, new_manager):
    make_plugin("toy", """
        from nnaccel_core.hooks import hookimpl
        @hookimpl
        def nnaccel_register_backends():
            return [dict]
    """)  # fmt: skip
    with pytest.raises(PluginError, match="registered <class 'dict'>, which is not a Backend"):
        new_manager().backend_for("toy")


def test_unknown_hook_and_wrong_arguments(make_plugin, new_manager):
    make_plugin("typo", """
        from nnaccel_core.hooks import hookimpl
        @hookimpl
        def nnaccel_register_backend():
            return []
    """)  # fmt: skip
    make_plugin("args", """
        from nnaccel_core.hooks import hookimpl
        @hookimpl
        def nnaccel_register_ops(stage):
            return []
    """)  # fmt: skip
    manager = new_manager()
    with pytest.raises(PluginError, match="hooks that do not exist: nnaccel_register_backend"):
        manager.plugins.load("typo")
    with pytest.raises(PluginError, match="(?s)acme-args.*stage"):
        manager.plugins.load("args")


def test_disabled(make_plugin, new_manager, monkeypatch):
    module = make_plugin("toy", backend())
    make_plugin("lists", FRONTEND)
    monkeypatch.setenv("NNACCEL_DISABLE_PLUGINS", "other, toy")
    manager = new_manager()
    assert {i.name: i.state for i in manager.list_plugins()} == {"toy": "disabled", "lists": "available"}
    with pytest.raises(DeviceError, match="switched off by NNACCEL_DISABLE_PLUGINS: other, toy"):
        manager.backend_for("toy")
    with pytest.raises(PluginError, match="switched off by NNACCEL_DISABLE_PLUGINS"):
        manager.plugins.load("toy")
    assert module not in sys.modules
    monkeypatch.delenv("NNACCEL_DISABLE_PLUGINS")
    assert manager.backend_for("toy")[1] == "toy"


def test_bridge(make_plugin, new_manager):
    make_plugin("bridge", """
        from nnaccel_core.hooks import hookimpl
        @hookimpl
        def nnaccel_register_bridges():
            from nnaccel_core.api import Bridge
            class Lists(Bridge):
                framework, device = "lists", "cpu"
            class Abstract(Bridge):
                framework, device = "lists", "cuda"
            Lists.__abstractmethods__ = frozenset()
            return [Lists, Abstract]
    """)  # fmt: skip
    manager = new_manager()
    bridge = manager.bridge_for("lists", "cpu:0")
    assert bridge.framework == "lists" and manager.bridge_for("lists", "cpu") is bridge
    match = "no bridge between framework 'lists' and device 'npu'; installed: lists-cpu, lists-cuda"
    with pytest.raises(PluginError, match=match):
        manager.bridge_for("lists", "npu")
    with pytest.raises(PluginError, match="acme-bridge: Abstract.__init__ failed: TypeError: .*abstract"):
        manager.bridge_for("lists", "cuda")


def test_ops_are_registered_and_a_taken_name_is_refused(make_plugin, new_manager):
    from nnaccel_core.ops import registry

    source = """
        from nnaccel_core.hooks import hookimpl
        @hookimpl
        def nnaccel_register_ops():
            from nnaccel_core.ops.registry import OpDef
            ref = lambda inputs, attrs: [2 * inputs[0]]
            return [OpDef("acme_double", infer=lambda types, attrs: types, ref=ref, host=True)]
    """
    make_plugin("ops", source)
    make_plugin("ops2", source)
    manager = new_manager()
    try:
        with pytest.raises(PluginError, match="op 'acme_double' is registered by both 'acme-ops' and 'acme-ops2'"):
            manager.load_ops()
        assert registry.lookup("acme_double").host
    finally:
        registry._ops.pop("acme_double", None)


def test_passes_get_stage_and_device_and_are_ordered(make_plugin, new_manager):
    make_plugin("passes", """
        from nnaccel_core.hooks import hookimpl
        @hookimpl
        def nnaccel_register_passes(stage, device):
            from nnaccel_core.api import Pass
            if (stage, device) != ("graph", "cpu"):
                return []
            return [Pass("acme", lambda g: g, before=("b",), after=("a",))]
    """)  # fmt: skip
    manager = new_manager()
    own = [named("a"), named("b"), named("c")]
    assert [p.name for p in manager.passes("graph", "cpu:0", own)] == ["a", "acme", "b", "c"]
    assert [p.name for p in manager.passes("graph", "cuda", own)] == ["a", "b", "c"]
    assert manager.passes("loop", "cpu") == []
    with pytest.raises(ValueError, match="stage must be one of"):
        manager.passes("final", "cpu")


def named(name: str, before: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> Pass:
    return Pass(name, lambda g: g, before=before, after=after)


def test_order_keeps_the_given_order_where_nothing_is_said():
    passes = [("p", named(n)) for n in "dbca"]
    assert [p.name for p in order_passes(passes)] == list("dbca")


def test_order_ignores_absent_names():
    assert [p.name for p in order_passes([("p", named("a", after=("nobody",))), ("p", named("b", before=("a",)))])] == ["b", "a"]


def test_cycle_and_double_names_are_errors():
    with pytest.raises(PluginError, match=r"'a' \(p\), 'b' \(q\) form a cycle"):
        order_passes([("p", named("a", after=("b",))), ("q", named("b", after=("a",))), ("p", named("c"))])
    with pytest.raises(PluginError, match="pass 'a' is registered by both 'p' and 'q'"):
        order_passes([("p", named("a")), ("q", named("a"))])


def test_asking_for_plugins_imports_no_framework():
    """With everything installed: listing, and asking every frontend, leaves the frameworks alone."""
    code = """
import sys
from nnaccel_core.hooks import manager
names = [p.name for p in manager.list_plugins()]
heavy = [m for m in ("torch", "tensorflow", "cupy", "onnx") if m in sys.modules]
assert not heavy, ("listing", heavy)
plug_ins = [m for m in sys.modules if m.startswith(("nnaccel_frontend", "nnaccel_backend"))]
assert not plug_ins, ("listing", plug_ins)
try:
    manager.frontend_for(object())
except Exception as e:
    assert "no frontend accepts" in str(e), e
heavy = [m for m in ("torch", "tensorflow", "cupy", "onnx") if m in sys.modules]
assert not heavy, ("asking", heavy)
print(names)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
