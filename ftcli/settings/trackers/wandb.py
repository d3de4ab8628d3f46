"""`wandb`: Weights & Biases, offline unless it is asked to send."""

from ftcli.settings.ownership import ENDPOINT
from ftcli.settings.tracker_declaration import Tracker, TrackerSetting

TRACKER = Tracker(
    name="wandb",
    summary="A run of Weights & Biases: offline, in the run, to be sent with `wandb sync`; or online.",
    package="wandb",
    remedy="pip install 'ftcli[wandb]'",
    writer="ftcli.worker.trackers.wandb:WandbRun",
    shown_by="wandb sync RUN/trackers/wandb/wandb/offline-run-*",
    settings={
        "project": TrackerSetting(default="ftcli", text="Project that the run belongs to."),
        "entity": TrackerSetting(text="User or team whose project it is; null is the one that is logged in."),
        "mode": TrackerSetting(
            choices=("offline", "online"),
            default="offline",
            grant=ENDPOINT,
            harmless=("offline",),
            text="offline keeps everything in the run; online sends it while the run trains, to who is logged in.",
        ),
        "base_url": TrackerSetting(
            grant=ENDPOINT, address=True, needs="mode=online", text="Address of a server of your own; null is wandb's."
        ),
    },
)
