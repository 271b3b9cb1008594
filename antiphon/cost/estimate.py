"""Time, memory and wire bytes of a step, for whole arrays of plans.

Factored: a layer table (``layer_table.py``), a mesh table, and candidates, which are rows of small
numbers pointing into both. Stages of a pipeline are a second axis. A pipeline takes the sum of its
stages' times plus (micro-batches - 1) times the slowest, and an exposed message on every hop; what
does not factor (contention of links, unequal micro-batches) is left to simulate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from antiphon.cost.inventory import model_flops_per_token
from antiphon.cost.layer_table import Floats, Integers, LayerTable, Profiles, Split, layer_table
from antiphon.cost.memory import peak_nbytes, state_nbytes
from antiphon.cost.reduction import Reduction, reduction
from antiphon.cost.roofline import work_seconds
from antiphon.spec.cluster import Cluster
from antiphon.spec.model import Model
from antiphon.spec.plan import Precision
