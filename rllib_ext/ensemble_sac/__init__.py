"""The paper-shaped SAC with a critic ensemble, as an RLlib algorithm."""

from rllib_ext.ensemble_sac.algorithm import EnsembleSAC
from rllib_ext.ensemble_sac.config import EnsembleSACConfig
from rllib_ext.ensemble_sac.settings import SACSettings

__all__ = ["EnsembleSAC", "EnsembleSACConfig", "SACSettings"]
