# SPDX-License-Identifier: Apache-2.0
"""Accuracy, flicker and time of videos on which the detector runs on some frames."""
