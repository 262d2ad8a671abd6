"""Private names of Lightning."""

from pytorch_lightning.trainer.connectors.signal_connector import _SignalConnector


class NoSignals(_SignalConnector):
    """Leaves signals to `Stop`: what Lightning does on SIGTERM waits for all ranks amid anything, and hangs."""

    def register_signal_handlers(self) -> None:
        self.received_sigterm = False
