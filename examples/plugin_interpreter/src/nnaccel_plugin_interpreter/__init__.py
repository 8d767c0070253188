"""An example of a third party's nnaccel plug-in; see docs/plugins.md."""
