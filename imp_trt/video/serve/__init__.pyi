from .view import BrowserView as BrowserView
