"""The methods against forgetting by name; a class is imported only when it is chosen."""

from __future__ import annotations

from rewarm.registry import Registry

METHODS = Registry("keep.methods", distill="rewarm.keep.distill:Distill")
