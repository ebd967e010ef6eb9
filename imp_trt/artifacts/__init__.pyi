# SPDX-License-Identifier: Apache-2.0
from .artifact import Artifact as Artifact
from .artifact import manifest_path as manifest_path
from .engine_info import EngineInfo as EngineInfo
from .manifest import InputContract as InputContract
from .manifest import Manifest as Manifest
from .manifest import TensorSpec as TensorSpec
from .manifest import parse_manifest as parse_manifest
from .network_manifest import NetworkManifest as NetworkManifest
from .plan_header import PlanHeader as PlanHeader
from .plan_header import read_plan_header as read_plan_header
from .reading import read_artifact as read_artifact
from .reading import read_manifest as read_manifest
from .reading import read_network as read_network
from .writing import write_artifact as write_artifact
