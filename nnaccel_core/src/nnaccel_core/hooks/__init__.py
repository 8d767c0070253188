"""Plug-in hooks: what a plug-in registers (`hookspecs`) and how it is found and loaded (`manager`).

A plug-in module marks its hook functions with `hookimpl`::

    from nnaccel_core.hooks import hookimpl

    @hookimpl
    def nnaccel_register_backends():
        from my_package.backend import MyBackend
        return [MyBackend]
"""

from nnaccel_core.hooks.hookspecs import hookimpl

__all__ = ["hookimpl"]
