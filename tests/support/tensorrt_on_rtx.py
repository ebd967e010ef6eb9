# SPDX-License-Identifier: Apache-2.0
"""Source of a package ``tensorrt`` whose objects are those of TensorRT-RTX, as far as these can be had.

It stands in for a TensorRT on a GPU in the building process: parsing and building are real; the timing cache,
the engine inspector and what TensorRT-RTX does not let a program set are recorded in a file named by $RECORD.
"""

SOURCE = r'''
import json, os
from tensorrt_rtx import *
import tensorrt_rtx as _rtx

__version__ = os.environ.get("STUB_VERSION", "10.3.0")
_record = {}


def _note(key, value):
    _record[key] = value
    with open(os.environ["RECORD"], "w") as file:
        json.dump(_record, file)


class HardwareCompatibilityLevel:
    NONE, AMPERE_PLUS = "none", "ampere plus"


class TimingCache:
    def __init__(self, data):
        self.data = data

    def serialize(self):
        return memoryview(self.data + b"+measured")


class Config:
    """Passes on what TensorRT-RTX has, keeps the rest."""

    def __init__(self, config):
        object.__setattr__(self, "_config", config)

    def __getattr__(self, name):
        return getattr(self._config, name)

    def __setattr__(self, name, value):
        _note(name, str(value))
        if name != "hardware_compatibility_level":
            setattr(self._config, name, value)

    def set_flag(self, flag):
        _note("flag", flag.name)

    def set_memory_pool_limit(self, pool, size):
        _note("pool", [pool.name, size])
        self._config.set_memory_pool_limit(pool, size)

    def create_timing_cache(self, data):
        # TensorRT gives no object for bytes that it cannot read.
        return None if data == b"damaged" else TimingCache(bytes(data))

    def set_timing_cache(self, cache, ignore_mismatch):
        _note("timing_cache", cache.data.decode())
        object.__setattr__(self, "_cache", cache)
        return cache.data != b"of another version"

    def get_timing_cache(self):
        return self._cache


class Builder:
    def __init__(self, logger):
        self._builder = _rtx.Builder(logger)

    def create_network(self, flags):
        _note("network_flags", flags)
        return self._builder.create_network(flags)

    def create_builder_config(self):
        return Config(self._builder.create_builder_config())

    def build_serialized_network(self, network, config):
        _note("tf32", config._config.get_flag(_rtx.BuilderFlag.TF32))
        return self._builder.build_serialized_network(network, config._config)


class Runtime:
    def __init__(self, logger):
        pass

    def deserialize_cuda_engine(self, plan):
        _note("deserialized", len(bytes(plan)))
        return None if os.environ["INSPECTED"] == "unloadable" else Engine()


class Engine:  # and its inspector
    def create_engine_inspector(self):
        return self

    def get_engine_information(self, format):
        _note("format", format.name)
        return os.environ["INSPECTED"]
'''
