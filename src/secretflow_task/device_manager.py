"""Devices of an execution; the code is in `engine.devices`."""

from secretflow_task.engine.devices import Devices, create_devices

__all__ = ["Devices", "create_devices"]
