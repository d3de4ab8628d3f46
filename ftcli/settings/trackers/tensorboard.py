"""`tensorboard`: event files."""

from ftcli.settings.tracker_declaration import Tracker

TRACKER = Tracker(
    name="tensorboard",
    summary="Event files for TensorBoard, in the run.",
    package="tensorboard",
    remedy="pip install 'ftcli[tensorboard]'",
    writer="ftcli.worker.trackers.tensorboard:EventFiles",
    shown_by="tensorboard --logdir RUN/trackers/tensorboard",
)
