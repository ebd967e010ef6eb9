from .device_arrays import DeviceFrame as DeviceFrame
from .letterbox import Fit as Fit
