"""Flux: a backend runtime that records every execution in Postgres."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("flux-pg")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0.0.0"

from .gateway.bodies import UploadedFile as UploadedFile
from .runtime.context import Context as Context
from .runtime.context import HttpError as HttpError
from .runtime.context import Response as Response
from .runtime.registry import define_function as define_function
