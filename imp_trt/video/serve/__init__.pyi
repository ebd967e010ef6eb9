# SPDX-License-Identifier: Apache-2.0
from .view import BrowserView as BrowserView
