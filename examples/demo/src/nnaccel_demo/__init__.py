"""The demo: a pretrained network classifies three photos before and after `nnaccel.optimize`."""
