"""Builds the native guard walk; without a C compiler the package installs and checks the same in Python."""

import sys

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            "nnaccel_frontend_torch._guards",
            ["src/nnaccel_frontend_torch/_guards.c"],
            define_macros=[("Py_LIMITED_API", "0x030A0000")],
            py_limited_api=True,
            extra_compile_args=[] if sys.platform == "win32" else ["-O3"],
            optional=True,
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp310"}},
)
