"""Defines recurrent networks: Elman's, GRU and LSTM, over sequences or images row by row, for classes and for numbers.

Shapes: B batch, T steps, D numbers in one step, H hidden units.
"""

from typing import Annotated, Any, Literal

import pytorch_lightning as pl
import torch
from annotated_types import Ge
from torch import Tensor, nn

from lab.engine.utils.errors import UserError
from lab.engine.utils.ranges import AtLeastTwo, PositiveInt, Probability
from lab.models.tasks.classification import Classifier
from lab.models.tasks.regression import Regressor

Cell = Literal["elman", "gru", "lstm"]
InputMode = Literal["rows", "pixels"]
ChronoInit = Annotated[int, Ge(3)]  # forget times are drawn between 1 and chrono_init - 1

CELLS: dict[str, Any] = {"elman": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}


class Recurrent(pl.LightningModule):
    """Reads sequences by layers of recurrent cells: `encode` gives the state after the last step.

    From input x and the state h of the step before, with s the sigmoid and * elementwise:

        elman   h' = tanh(W x + U h + b)

        gru     r = s(Wr x + Ur h + br)                reset
                z = s(Wz x + Uz h + bz)                keep
                n = tanh(Wn x + bn + r * (Un h + cn))  candidate
                h' = (1 - z) * n + z * h

        lstm    i, f, o = s(Wi x + Ui h + bi), s(Wf x + Uf h + bf), s(Wo x + Uo h + bo)
                c' = f * c + i * tanh(Wc x + Uc h + bc)
                h' = o * tanh(c')

    Recurrent weights start orthogonal (Saxe, McClelland and Ganguli 2014), one block a gate; the LSTM's forget gate
    starts open, with a bias of 1 (Jozefowicz, Zaremba and Sutskever 2015), or as `chrono_init` says.

    Args:
        input_size: D; an image's row is one step.
        cell: `elman`, `gru` or `lstm`.
        hidden_size: H.
        num_layers: each reads the states of the one below.
        bidirectional: a second net reads from the end; its state is appended.
        dropout: probability of dropping a number between two layers; needs two layers.
        input_mode: `rows`, or `pixels`: every single number is a step (images by pixels).
        chrono_init: steps that an LSTM must remember over; its gates then start so that its units forget after
            times between one step and this, their input gates closed as far as their forget gates are open (Tallec and
            Ollivier 2018, equation 16). None for the bias of 1.
        **task: of the task that a subclass adds.

    Source: Elman 1990; Cho et al. 2014, with the reset gate after the product, as cuDNN has it; Hochreiter and
    Schmidhuber 1997 with the forget gate of Gers, Schmidhuber and Cummins 2000.
    """

    def __init__(
        self,
        input_size: PositiveInt = 28,
        cell: Cell = "lstm",
        hidden_size: PositiveInt = 128,
        num_layers: PositiveInt = 1,
        bidirectional: bool = False,
        dropout: Probability = 0.0,
        input_mode: InputMode = "rows",
        chrono_init: ChronoInit | None = None,
        **task: Any,
    ) -> None:
        super().__init__(**task)
        if chrono_init is not None and cell != "lstm":
            raise UserError(f"chrono_init={chrono_init}, cell={cell}: it is for the gates of an LSTM")
        if dropout > 0 and num_layers == 1:
            raise UserError(f"dropout={dropout} works between layers, and num_layers=1: give two layers or dropout=0")
        self.input_mode = input_mode
        self.layers = CELLS[cell](
            1 if input_mode == "pixels" else input_size,
            hidden_size,
            num_layers,
            batch_first=True,
            dropout=dropout,
            bidirectional=bidirectional,
        )
        self.state_size = hidden_size * (2 if bidirectional else 1)
        for name, parameter in self.layers.named_parameters():
            if name.startswith("weight_hh"):
                for gate in parameter.split(hidden_size):
                    nn.init.orthogonal_(gate)
            elif name.startswith("bias"):
                nn.init.zeros_(parameter)
                if cell == "lstm" and name.startswith("bias_ih"):
                    put_in, forget, _, _ = parameter.detach().split(hidden_size)
                    forget.fill_(1.0)
                    if chrono_init is not None:
                        forget.uniform_(1, chrono_init - 1).log_()
                        put_in.copy_(-forget)

    def encode(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        if x.ndim == 4:
            x = x.transpose(1, 2).flatten(2)  # images (B, C, T, W) -> (B, T, C * W)
        if self.input_mode == "pixels":
            lengths = None if lengths is None else lengths * x.shape[2]
            x = x.flatten(1).unsqueeze(2)  # (B, T, D) -> (B, T * D, 1)
        sequences: Any = x
        if lengths is not None:  # what lies behind a sequence's end is not read
            sequences = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, state = self.layers(sequences)
        h = state[0] if isinstance(state, tuple) else state  # (layers * directions, B, H), after the last step
        directions = 2 if self.layers.bidirectional else 1
        return torch.cat(tuple(h[-directions:]), dim=1)  # (B, H * directions)


class RNN(Recurrent, Classifier):
    """Classifies each sequence by the state after its last step.

    Args:
        num_classes: C.
        **options: see `Recurrent` and `Classifier`.
    """

    def __init__(self, num_classes: AtLeastTwo = 10, **options: Any) -> None:
        super().__init__(num_classes=num_classes, **options)
        self.head = nn.Linear(self.state_size, num_classes)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.head(self.encode(x, lengths))  # (B, T, D) -> (B, H) -> (B, C)


class RNNRegressor(Recurrent, Regressor):
    """Predicts numbers for each sequence by the state after its last step.

    Args:
        input_size: D, numbers in one step.
        num_targets: K.
        **options: see `Recurrent` and `Regressor`.
    """

    def __init__(self, input_size: PositiveInt = 2, num_targets: PositiveInt = 1, **options: Any) -> None:
        super().__init__(input_size=input_size, num_targets=num_targets, **options)
        self.head = nn.Linear(self.state_size, num_targets)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        return self.head(self.encode(x, lengths))  # (B, T, D) -> (B, H) -> (B, K)
