# SPDX-License-Identifier: Apache-2.0
"""What the faults of the detections cost the class map."""
