"""What can end a run. Each message says what, where, and what to do; the command line prints it.

A single request without an answer is no exception but a `RequestFailure` record, and wrong code
is a score: neither is here.
"""

from __future__ import annotations


class FimEvalError(Exception):
    """The run cannot go on. The message is one sentence for the person at the terminal."""


class DatasetError(FimEvalError):
    """Problems or tasks cannot be read, or a row lacks something: names path, line and task."""


class TokenizerError(FimEvalError):
    """A tokenizer is missing, or is not the one that the model's format needs."""


class StrategyRefusedError(FimEvalError):
    """The model cannot be asked this way, as `fim-psm` where it was never trained to infill."""


class EndpointError(FimEvalError):
    """The server cannot be reached, refuses us, or does not serve the model."""


class UnansweredError(EndpointError):
    """The server does not answer now; another one of the same model may."""


class ServerChangedError(FimEvalError):
    """Answers began to come from another server or configuration than the run started with."""


class RunDirectoryError(FimEvalError):
    """A run directory cannot be written, is in use, is damaged, or belongs to another run."""


class IsolationError(FimEvalError):
    """Programs cannot be run as safely as was asked for; names what the machine lacks."""


class ClusterError(FimEvalError):
    """A Ray cluster cannot be joined, or has lost what it was given too often."""


class ArchitectureError(FimEvalError):
    """A model's size is not known, or its config.json does not tell it."""


class PlanError(FimEvalError):
    """What was to be planned cannot be: an unknown GPU, or a model that no number of them holds."""
