"""The engines that are measured, by name."""
from .build import Floor, Make, N2, Ninja, NinjaRestat
from .science import Dvc, Snakemake
from .volvelle import Volvelle

ALL = {adapter.name: adapter for adapter in (Volvelle, Floor, Ninja, NinjaRestat, N2, Make, Dvc, Snakemake)}
